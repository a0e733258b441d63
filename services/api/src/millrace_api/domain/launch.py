"""The request that starts an execution, and what makes a repeat of it the same request."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from millrace_api.domain.documents import decode
from millrace_api.errors import Mistake, Refused
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.messages import Priority

BODY_BYTES_MAX = 8 * 1024 * 1024
"""A request to start an execution, its input included."""
EXECUTION_NAME_CHARS_MAX = 200
LABELS_MAX = 32
LABEL_NAME_CHARS_MAX = 64
LABEL_VALUE_CHARS_MAX = 256
BREAKPOINTS_MAX = 1_000
BREAKPOINTS_SHOWN_MAX = 20
"""Mistakes of them that are told at once."""
EVERY_STEP = "*"
"""In place of a step's id: a breakpoint before every step."""
WAIT_S_MAX = 60.0
"""Longest `?wait`. A client that needs longer asks again, or watches the WebSocket."""

Ref = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
ExecutionName = Annotated[str, msgspec.Meta(min_length=1, max_length=EXECUTION_NAME_CHARS_MAX)]
LabelName = Annotated[str, msgspec.Meta(min_length=1, max_length=LABEL_NAME_CHARS_MAX)]
LabelValue = Annotated[str, msgspec.Meta(max_length=LABEL_VALUE_CHARS_MAX)]
Version = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Breakpoints = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=BREAKPOINTS_MAX)
]
_Labels = Annotated[dict[LabelName, LabelValue], msgspec.Meta(max_length=LABELS_MAX)]


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions`. Null and absent mean the same.

    `workflow` is an id or a name; `version` is the latest one when absent. The first request with an `execution_name`
    of a workflow starts an execution, and every repeat of it answers with that one. `breakpoints` are steps that are
    held before they begin, by id; `*` is every one.
    """

    workflow: Ref | None = None
    version: Version | None = None
    execution_name: ExecutionName | None = None
    input: dict[str, Any] | None = None
    priority: Priority | None = None
    labels: _Labels | None = None
    breakpoints: Breakpoints | None = None


_decoder = msgspec.json.Decoder(Launch)


def decode_launch(body: bytes, workflow: str | None = None) -> Launch:
    """Decode a request to start `workflow`, or the workflow that the body names.

    Raises:
        Refused: `request_invalid`, naming the field.
    """
    launch = decode(_decoder, body or b"{}")
    if workflow is not None:
        if launch.workflow not in (None, workflow):
            raise Refused(
                "request_invalid",
                "the body names another workflow than the path",
                [{"loc": ["body", "workflow"], "msg": "leave it out: the path names the workflow", "type": "conflict"}],
            )
        return msgspec.structs.replace(launch, workflow=workflow)
    if launch.workflow is None:
        raise Refused(
            "request_invalid",
            "workflow: the field is required: the id or the name of a workflow",
            [{"loc": ["body", "workflow"], "msg": "the field is required", "type": "missing"}],
        )
    return launch


def read_breakpoints(definition: WorkflowDefinition, given: Breakpoints | None) -> tuple[str, ...]:
    """Return the breakpoints of an execution of `definition`.

    Raises:
        Refused: `request_invalid`, naming every one that is no step.
    """
    mistakes: list[Mistake] = []
    for position, step in enumerate(given or ()):
        if step != EVERY_STEP and step not in definition.steps:
            hint = did_you_mean(step, definition.steps) or "name its steps, or * for all of them"
            message = f'workflow "{definition.name}" has no step "{step}"; {hint}'
            loc: list[str | int] = ["body", "breakpoints", position]
            mistakes.append({"loc": loc, "msg": message, "type": "unknown", "input": step})
    if mistakes:
        count = len(mistakes)
        detail = f"breakpoints: {mistakes[0]['msg']}" if count == 1 else f"{count} breakpoints are no steps"
        raise Refused("request_invalid", detail, mistakes[:BREAKPOINTS_SHOWN_MAX])
    return tuple(dict.fromkeys(given or ()))


def same_input(one: Any, other: Any) -> bool:
    """Tell whether two inputs are the same JSON, whatever the order of their members: 1, 1.0 and true all differ."""
    return bool(_canonical(one) == _canonical(other))


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def wait_seconds(text: str | None) -> float:
    """Read `?wait=`: seconds, 0 when absent.

    Raises:
        Refused: it is not a number from 0 to `WAIT_S_MAX`.
    """
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= WAIT_S_MAX:
        message = f"a number of seconds from 0 to {WAIT_S_MAX:g} is needed"
        raise Refused(
            "request_invalid",
            f"wait: {message}",
            [{"loc": ["query", "wait"], "msg": message, "type": "out_of_range", "input": text}],
        )
    return seconds
