"""What the models of a definition are made of: their base class, and the kinds of text that fields hold."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from millrace_shared.definition import limits as bounds

StepId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Also for agents, secrets and signals: lower-case letters, digits, `_`, `-`, a letter first; at most 64."""

WorkflowName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?$", max_length=bounds.NAME_CHARS_MAX)
]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=bounds.ID_CHARS_MAX)]
"""Names of inputs and outputs."""

DisplayName = Annotated[str, StringConstraints(min_length=1, max_length=bounds.NAME_CHARS_MAX)]
Description = Annotated[str, StringConstraints(max_length=bounds.DESCRIPTION_CHARS_MAX)]
Prompt = Annotated[str, StringConstraints(max_length=bounds.PROMPT_BYTES_MAX)]
KeyTemplate = Annotated[str, StringConstraints(min_length=1, max_length=bounds.KEY_CHARS_MAX)]
"""Text with expressions that tells executions, or results, apart."""

JsonSchema = dict[str, Any]
"""A JSON Schema, Draft 2020-12; `validation.py` checks that it is one."""


class Part(BaseModel):
    """A part of a definition: unknown keys are refused, null is absent, and it never changes."""

    # Strict: "3" is not 3 and true is not 1. Lists are exempt, as JSON has no tuples.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value
