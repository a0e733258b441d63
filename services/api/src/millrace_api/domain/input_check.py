"""The input of an execution against the `inputs` of its workflow, prepared once per version."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from millrace_api.errors import Refused
from millrace_shared.definition.inputs import InputInvalid, complete_input
from millrace_shared.definition.model import WorkflowDefinition


class InputCheck:
    """Checks inputs of one version of a workflow, and fills in its defaults."""

    def __init__(self, definition: WorkflowDefinition) -> None:
        self._definition = definition
        self._defaults: dict[str, Any] | None = None
        with contextlib.suppress(InputInvalid):  # some input is required
            self._defaults = complete_input(definition, None)
        defaults = [schema.get("default") for schema in definition.inputs.values() if schema]
        self.defaults_size_bytes = len(msgspec.json.encode(defaults))

    def check(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the input with defaults.

        Raises:
            Refused: `input_invalid`, with every mistake.
        """
        if not given and self._defaults is not None:
            return self._defaults
        try:
            return complete_input(self._definition, given)
        except InputInvalid as error:
            count = len(error.problems)
            detail = str(error) if count == 1 else f"the input has {count} mistakes"
            raise Refused("input_invalid", detail, error.problems) from None
