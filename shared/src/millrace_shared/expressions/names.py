"""The names that expressions may use, and what is known about each before anything runs.

| name | value |
|---|---|
| `inputs.<name>` | an input of the execution |
| `steps.<id>.output` | output of a step; null if it was skipped, or failed with `on_error: continue` |
| `steps.<id>.status` | `completed`, `skipped`, `failed`, `timeout`, `cancelled`, ... |
| `steps.<id>.error` | `{code, category, message}` of a failed step, else null |
| `item`, `index` | under `for_each`: the item, and its position from 0 |
| `iteration`, `previous` | under `repeat`: its number from 1, and the output of the one before, null in the first |
| `output` | in `repeat.until`: the output of the iteration that is judged |
| `execution.<id, name, started_at>` | the execution; `started_at` is RFC 3339 text |
| `workflow.<name, version>` | the workflow |
| `secrets.<name>` | a secret; only in http calls and tool settings, and never inside a larger expression |
| `event`, `trigger.<field>` | in triggers alone: what happened, and the trigger that it fires |
"""

from millrace_shared.expressions.errors import ExpressionInvalid
from millrace_shared.expressions.suggest import did_you_mean

ROOTS = (
    "inputs",
    "steps",
    "item",
    "index",
    "iteration",
    "previous",
    "output",
    "execution",
    "workflow",
    "secrets",
)
TRIGGER_ROOTS = ("event", "trigger")
"""The names of triggers' expressions, which see nothing else. Elsewhere a macro may use them for its variable."""
STEP_FIELDS = ("output", "status", "error")
EXECUTION_FIELDS = ("id", "name", "started_at")
WORKFLOW_FIELDS = ("name", "version")

_FIELDS = {"execution": EXECUTION_FIELDS, "workflow": WORKFLOW_FIELDS}

Key = str | int


def check_reference(expression: str, root: str, keys: tuple[Key, ...]) -> None:
    """Checks a reference as far as that is possible without the definition.

    Args:
        expression: The expression as written, for the message.
        root: First name of the reference.
        keys: What follows it.

    Raises:
        ExpressionInvalid: There is no such name.
    """
    if root in TRIGGER_ROOTS:
        return
    if root not in ROOTS:
        reason = f'there is no name "{root}"; names are {", ".join(ROOTS)}'
        raise ExpressionInvalid(expression, reason, did_you_mean(root, ROOTS))
    if root == "steps":
        _check_step(expression, keys)
    elif root in _FIELDS:
        fields = _FIELDS[root]
        if not keys:
            raise ExpressionInvalid(expression, f"{root} needs a field: {', '.join(fields)}")
        if keys[0] not in fields:
            reason = f'{root} has no "{keys[0]}"; it has {", ".join(fields)}'
            raise ExpressionInvalid(expression, reason, did_you_mean(str(keys[0]), fields))
    elif root == "secrets" and len(keys) != 1:
        raise ExpressionInvalid(expression, "a secret is written secrets.<name>")


def _check_step(expression: str, keys: tuple[Key, ...]) -> None:
    if not keys or not isinstance(keys[0], str):
        raise ExpressionInvalid(expression, "a step is named in full: steps.<id>.output, .status or .error")
    step = keys[0]
    if len(keys) == 1:
        raise ExpressionInvalid(
            expression, f"say what of step {step} is meant", f"write steps.{step}.output, .status or .error"
        )
    if keys[1] not in STEP_FIELDS:
        guess = did_you_mean(str(keys[1]), STEP_FIELDS) or f"write steps.{step}.output.{keys[1]}?"
        raise ExpressionInvalid(expression, f'a step has no "{keys[1]}", only output, status and error', guess)
