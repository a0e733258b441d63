"""One compiled expression: a plain path, or a CEL program with the paths that it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from millrace_shared.expressions.errors import ExpressionInvalid
from millrace_shared.expressions.limits import EXPRESSION_BYTES_MAX
from millrace_shared.expressions.names import Key, check_reference
from millrace_shared.expressions.paths import Path, Scope, lookup, parse_path


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that an expression reads: `steps.load.output.rows` is root `steps` and keys `(load, output, rows)`.

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
        has_macros: Whether it loops over lists (`exists`, `all`, `exists_one`, `map`, `filter`), which decides where
            it may be evaluated.
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


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. Exactly one of `path` and `program` is set.

    Attributes:
        source: The expression as written.
        references: What it reads.
        path: Set for a plain path.
        program: Set for everything else.
    """

    source: str
    references: tuple[Reference, ...]
    path: Path | None
    program: Program | None

    def value(self, scope: Scope, evaluate: Evaluate) -> Any:
        """Returns the value in a scope.

        Returns:
            A JSON value; for a plain path it may also be a `BlobRef` or a `Payload`.

        Raises:
            ExpressionError: There is no value.
            BlobNeeded: Claim-checked values must be loaded first.
        """
        if self.path is not None:
            return lookup(self.path, scope)
        from millrace_shared.expressions.variables import variables_of

        assert self.program is not None
        return evaluate(self.program, variables_of(self.program, scope))


@lru_cache(maxsize=16_384)
def compile_expression(text: str) -> Expression:
    """Compiles an expression.

    Names of steps, inputs and secrets are checked against a definition by `definition/validation.py`, not here.

    Raises:
        ExpressionInvalid: It is empty, too long, or not an expression.
    """
    if not text.strip():
        raise ExpressionInvalid(text, "the expression is empty", "write a name such as inputs.topic")
    if len(text.encode(errors="replace")) > EXPRESSION_BYTES_MAX:
        shown = text[:60] + "..."
        raise ExpressionInvalid(
            shown, f"the expression is over {EXPRESSION_BYTES_MAX} bytes", "move the work into a transform or python step"
        )
    path = parse_path(text)
    if path is not None:
        check_reference(path.source, path.root, path.keys)
        return Expression(path.source, (Reference(path.root, path.keys),), path, None)
    from millrace_shared.expressions.cel import compile_program

    program = compile_program(text.strip())
    return Expression(program.source, program.references, None, program)
