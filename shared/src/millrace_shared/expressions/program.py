"""CEL programs, what they read, and what it takes to evaluate them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from millrace_shared.expressions.names import Key


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that an expression reads: `steps.a.output.b` is root `steps` and keys `(a, output, b)`.

    `guarded` marks one inside `has(...)`, whose last key may be missing.
    """

    root: str
    keys: tuple[Key, ...]
    guarded: bool = False

    @property
    def step_id(self) -> str | None:
        """The step that is read, if one is."""
        return str(self.keys[0]) if self.root == "steps" and self.keys else None


@dataclass(frozen=True, slots=True)
class Program:
    """A CEL program.

    Attributes:
        source: The expression as the author wrote it, for messages.
        text: The same in CEL's own spelling: step ids with hyphens in brackets.
        references: What it reads.
        has_macros: Whether it loops over lists (`exists`, `all`, `exists_one`, `map`, `filter`), which
            decides where it may be evaluated.
    """

    source: str
    text: str
    references: tuple[Reference, ...]
    has_macros: bool


Evaluate = Callable[[Program, dict[str, Any]], Any]
"""`(program, variables by root name) -> JSON value`; raises `ExpressionError`."""


class Evaluator(Protocol):
    """Something that evaluates CEL programs."""

    def evaluate(self, program: Program, variables: dict[str, Any]) -> Any:
        """Returns the value of a program.

        Args:
            program: What to evaluate.
            variables: JSON values by root name; no claim-checked parts.

        Raises:
            ExpressionError: The program has no value for these variables, or takes too much.
        """
