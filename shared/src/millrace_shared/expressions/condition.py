"""Conditions: the bare boolean expressions of `when`."""

from dataclasses import dataclass
from functools import lru_cache

from millrace_shared.expressions.cel import check_boolean
from millrace_shared.expressions.errors import BlobNeeded, ExpressionError, ExpressionInvalid
from millrace_shared.expressions.expression import Expression, compile_expression
from millrace_shared.expressions.paths import Scope, type_name
from millrace_shared.expressions.program import Evaluate, Reference
from millrace_shared.values import BlobRef, Payload


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition."""

    expression: Expression

    @property
    def references(self) -> tuple[Reference, ...]:
        """Everything that the condition reads."""
        return self.expression.references

    @property
    def step_ids(self) -> frozenset[str]:
        """Steps whose output, status or error is read."""
        return frozenset(step for reference in self.references if (step := reference.step_id) is not None)

    def test(self, scope: Scope, evaluate: Evaluate) -> bool:
        """Tells whether the condition holds.

        Raises:
            ExpressionError: It has no value here, or one that is not a boolean.
            BlobNeeded: It looks into claim-checked values.
        """
        value = self.expression.value(scope, evaluate)
        if isinstance(value, Payload):
            value = value.refs.get("", value.data)
        if isinstance(value, BlobRef):
            raise BlobNeeded(frozenset((value,)))
        if not isinstance(value, bool):
            reason = f"a condition must be true or false, and this is {type_name(value)}"
            raise ExpressionError(self.expression.source, reason)
        return value


@lru_cache(maxsize=16_384)
def compile_condition(text: str) -> Condition:
    """Compiles a condition.

    Raises:
        ExpressionInvalid: It is not an expression, or one that cannot be a boolean.
    """
    if text.lstrip().startswith("${{"):
        bare = text.strip().removeprefix("${{").removesuffix("}}").strip()
        raise ExpressionInvalid(text, "a condition is a bare expression", f"write it without ${{{{ }}}}: {bare}")
    expression = compile_expression(text)
    if expression.program is not None:
        check_boolean(expression.program)
    return Condition(expression)
