"""Checks the types of expressions where the types of inputs are known."""

from collections.abc import Mapping
from typing import Any

from millrace_shared.expressions.cel import check_types
from millrace_shared.expressions.errors import ExpressionInvalid
from millrace_shared.expressions.expression import Expression


class InputTypes:
    """The types of a workflow's inputs.

    Args:
        declared: Input name -> the `type` of its JSON Schema; anything but one type's name is not known.
    """

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self._types = tuple(sorted((name, kind) for name, kind in declared.items() if isinstance(kind, str)))

    def check(self, expression: Expression, *, is_condition: bool) -> None:
        """Checks an expression.

        Raises:
            ExpressionInvalid: An operator or function does not take an input's type, or a condition is no
                boolean.
        """
        if expression.path is not None:
            self._check_path(expression, is_condition=is_condition)
        elif expression.program is not None and any(reference.root == "inputs" for reference in expression.references):
            check_types(expression.program, self._types, is_condition=is_condition)

    def _check_path(self, expression: Expression, *, is_condition: bool) -> None:
        assert expression.path is not None
        path = expression.path
        kind = dict(self._types).get(str(path.keys[0])) if path.root == "inputs" and path.keys else None
        if kind in ("string", "number", "integer", "boolean", "null") and len(path.keys) > 1:
            raise ExpressionInvalid(expression.source, f"the input is of type {kind} and has nothing below it")
        if not is_condition:
            return
        if kind is not None and kind != "boolean" and len(path.keys) == 1:
            raise ExpressionInvalid(expression.source, f"a condition must be true or false, and this input is {kind}")
        if path.root in ("index", "iteration"):
            raise ExpressionInvalid(
                expression.source, f"a condition must be true or false, and {path.root} is a number"
            )
        if path.root == "steps" and path.keys[1:] == ("status",):
            hint = f"write {expression.source} == 'completed'"
            raise ExpressionInvalid(expression.source, "a condition must be true or false, and this is text", hint)
