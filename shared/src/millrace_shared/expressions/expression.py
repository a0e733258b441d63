"""One compiled expression: a plain path, or a CEL program with the paths that it reads."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from millrace_shared.expressions.cel import MISSING_KEY, compile_program
from millrace_shared.expressions.errors import BlobNeeded, ExpressionError, ExpressionInvalid
from millrace_shared.expressions.limits import EXPRESSION_BYTES_MAX
from millrace_shared.expressions.names import check_reference
from millrace_shared.expressions.paths import Path, Scope, lookup, parse_path
from millrace_shared.expressions.program import Evaluate, Program, Reference
from millrace_shared.expressions.variables import variables_of


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
        assert self.program is not None
        try:
            return evaluate(self.program, variables_of(self.program, scope))
        except ExpressionError as error:
            raise _with_known_keys(error, self.references, scope) from error


def _with_known_keys(error: ExpressionError, references: tuple[Reference, ...], scope: Scope) -> ExpressionError:
    """CEL names the key that is missing; a lookup of the same path also knows the keys that are there."""
    if not error.reason.startswith(MISSING_KEY):
        return error
    for reference in references:
        try:
            lookup(Path(error.expression, reference.root, reference.keys), scope)
        except ExpressionError as better:
            return better
        except BlobNeeded:
            continue
    return error


@lru_cache(maxsize=16_384)
def compile_expression(text: str) -> Expression:
    """Compiles an expression.

    Names of steps, inputs and secrets are checked against a definition by `definition/validation.py`, not
    here.

    Raises:
        ExpressionInvalid: It is empty, too long, or not an expression.
    """
    if not text.strip():
        raise ExpressionInvalid(text, "the expression is empty", "write a name such as inputs.topic")
    if len(text.encode(errors="replace")) > EXPRESSION_BYTES_MAX:
        shown = text[:60] + "..."
        raise ExpressionInvalid(
            shown,
            f"the expression is over {EXPRESSION_BYTES_MAX} bytes",
            "move the work into a transform or python step",
        )
    path = parse_path(text)
    if path is not None:
        check_reference(path.source, path.root, path.keys)
        return Expression(path.source, (Reference(path.root, path.keys),), path, None)
    program = compile_program(text.strip())
    return Expression(program.source, program.references, None, program)
