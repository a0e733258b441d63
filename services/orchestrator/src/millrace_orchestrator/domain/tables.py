"""Which status may follow which, as data. `evolve` looks every event up here; a missing entry raises.

The same tables draw the diagrams in docs/state-machine.md (`python -m millrace_orchestrator.domain.tables`), so the
picture cannot be wrong about the code.
"""

from __future__ import annotations

from typing import Final

from millrace_orchestrator.domain.errors import ImpossibleTransition
from millrace_orchestrator.domain.state import StepStatus
from millrace_shared import messages

UNIT: Final[dict[tuple[StepStatus, type], StepStatus]] = {
    # A unit that runs once: a step without `for_each`, or one item.
    ("pending", messages.StepReused): "completed",
    ("pending", messages.StepQueued): "queued",
    ("pending", messages.StepScheduled): "running",
    ("queued", messages.StepScheduled): "running",
    ("waiting", messages.StepQueued): "queued",  # its retry is due, and no place is free
    ("pending", messages.StepWaiting): "waiting",
    ("waiting", messages.StepWaiting): "waiting",  # a breakpoint is over, and the step itself waits
    ("waiting", messages.StepScheduled): "running",  # a breakpoint is over
    ("running", messages.StepIterated): "pending",  # another iteration of its `repeat` follows
    ("running", messages.StepRetryScheduled): "waiting",
    ("running", messages.StepDeferred): "waiting",  # it gave its place back, and goes on later
    ("waiting", messages.StepAnswered): "waiting",  # people answered what an attempt asked
    ("pending", messages.StepCompleted): "completed",  # a transform, decided on the spot
    ("running", messages.StepCompleted): "completed",
    ("waiting", messages.StepCompleted): "completed",  # a wait that is over
    ("pending", messages.StepFailed): "failed",  # its condition or its input could not be evaluated
    ("queued", messages.StepFailed): "failed",
    ("waiting", messages.StepFailed): "failed",  # rejected, or nobody came in time
    ("running", messages.StepFailed): "failed",
    ("pending", messages.StepSkipped): "skipped",
    ("pending", messages.StepCancelled): "cancelled",
    ("queued", messages.StepCancelled): "cancelled",
    ("running", messages.StepCancelled): "cancelled",
    ("waiting", messages.StepCancelled): "cancelled",
}

FOR_EACH: Final[dict[tuple[StepStatus, type], StepStatus]] = {
    # The whole of a `for_each` step: running from its expansion until its last item has settled.
    ("pending", messages.StepExpanded): "running",
    ("waiting", messages.StepExpanded): "running",  # a breakpoint is over
    ("running", messages.StepCompleted): "completed",
    ("running", messages.StepFailed): "failed",
    ("running", messages.StepCancelled): "cancelled",
}


def next_status(
    table: dict[tuple[StepStatus, type], StepStatus], status: StepStatus, event: messages.Event, place: str
) -> StepStatus:
    """Return the status after `event`. Raises `ImpossibleTransition` when the table has no entry."""
    try:
        following = table[status, type(event)]
    except KeyError:
        name = type(event).__struct_config__.tag
        raise ImpossibleTransition(f"{place} is {status}, and {name} cannot follow that") from None
    if isinstance(event, messages.StepFailed) and event.error.category == "timeout":
        return "timeout"
    return following


def mermaid(table: dict[tuple[StepStatus, type], StepStatus]) -> str:
    """Return a table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    lines += [
        f"    {status} --> {following}: {event.__struct_config__.tag}"  # type: ignore[attr-defined]
        for (status, event), following in table.items()
    ]
    ends = sorted(set(table.values()) - {status for status, _ in table})
    return "\n".join([*lines, *(f"    {status} --> [*]" for status in ends)])


def document() -> str:
    """Return docs/state-machine.md."""
    return "\n".join(
        (
            "# The state machine",
            "",
            "Generated from `services/orchestrator/src/millrace_orchestrator/domain/tables.py`; `make docs` writes it.",
            "",
            "## A step without `for_each`, or one item",
            "",
            "```mermaid",
            mermaid(UNIT),
            "```",
            "",
            "A `step.failed` whose error has the category `timeout` leads to `timeout` in place of `failed`.",
            "",
            "## The whole of a `for_each` step",
            "",
            "```mermaid",
            mermaid(FOR_EACH),
            "```",
            "",
        )
    )


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201  this module is also the generator of a page
