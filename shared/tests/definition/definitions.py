"""Definitions as text, and what validation says of them."""

from typing import Any

import pytest

from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.validation import validate


def flow(steps: str, rest: str = "") -> str:
    """Return a definition with these steps (indented by two) and anything else."""
    return f"name: flow\n{rest}\nsteps:\n{steps}"


def mistakes(source: Any) -> list[str]:
    """Return what is wrong with a definition; fail if nothing is."""
    with pytest.raises(DefinitionInvalid) as caught:
        validate(source)
    return [str(problem) for problem in caught.value.problems]


def warnings(source: Any) -> list[str]:
    """Return what a valid definition is warned of."""
    return [str(warning) for warning in validate(source).warnings]
