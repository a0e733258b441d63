"""Finds out why an execution has not ended: gathers what the log, the queues and the gates say, and asks `domain.why`.

An explanation is worth giving although a part of the picture cannot be had, so whatever does not answer is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from millrace_api.adapters.executions import Execution, Executions
from millrace_api.adapters.projection_reader import NOT_THERE_YET, ProjectionReader
from millrace_api.domain.graphs import Counts, count_items
from millrace_api.domain.rendering import FINAL, STEP_FINAL, Row
from millrace_api.domain.why import why
from millrace_api.domain.why_scene import AHEAD_MAX, Inbox, Line, Queue, Reason, Scene
from millrace_api.errors import Refused
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.log_reader import read_last, read_last_of_log, read_subject
from millrace_shared.bus.streams import INBOX_BACKOFF_S, INBOX_GROUP, work_consumer_name
from millrace_shared.codec import decode_transition
from millrace_shared.errors import BusUnavailable, MessageInvalid
from millrace_shared.gates import decode_gate, decode_ticket
from millrace_shared.ids import partition_of
from millrace_shared.lanes import LANES
from millrace_shared.messages import WORK_KINDS, WorkKind
from millrace_shared.postgres import is_unavailable

log = logging.getLogger(__name__)

DEPTH_MAX = 5
"""Child executions below one another that are explained."""
CHILDREN_MAX = 20
"""Child executions that one question looks at in all."""
ITEMS_READ_MAX = 50

T = TypeVar("T")


class Explainer:
    """Answers the question of one caller after the other; it keeps nothing."""

    def __init__(self, connection: Connection, executions: Executions, projection: ProjectionReader) -> None:
        self._connection = connection
        self._executions = executions
        self._projection = projection

    async def why(self, workspace: str, execution_id: str) -> tuple[Execution, list[Reason]]:
        """Return an execution, and what it waits for; at least one reason.

        Raises:
            Refused: `execution_not_found`.
            BusUnavailable: neither the projection nor the bus could answer.
        """
        found = await self._executions.get(workspace, execution_id)
        return found, await self._explain(workspace, found, depth=0, places=_Places(CHILDREN_MAX))

    async def counts(self, found: Execution) -> Counts:
        """Return how many items of each `for_each` step have which status."""
        if found.view is not None:
            return count_items(found.view.steps)
        if not any(step.get("item_count") for step in found.steps):
            return {}
        return await self._projection.item_counts(found.row["id"])

    async def _explain(self, workspace: str, found: Execution, *, depth: int, places: _Places) -> list[Reason]:
        row = found.row
        scene = Scene(row, [], found.definition, datetime.now(UTC), relook_s=INBOX_BACKOFF_S[-1])
        if row["status"] in FINAL:
            return why(scene)
        items = await _known(self._items(found), ())
        begun = await _known(self._projection.attempt_starts(row["id"]), {})
        steps = [_begun(step, begun) for step in found.steps if step["item"] < 0]
        items = [_begun(item, begun) for item in items]
        scene = replace(
            scene,
            steps=steps,
            items=items,
            counts=await _known(self.counts(found), {}),
            queues=await self._queues(steps, items, found),
            line=await _known(self._line(row), None),
            inbox=await _known(self._inbox(row["id"]), None),
            last_event=await _known(self._last_event(row["id"]), "not known"),
        )
        if depth < DEPTH_MAX:
            scene = replace(scene, children=await self._children(workspace, [*steps, *items], depth, places))
        return why(scene)

    async def _children(
        self, workspace: str, rows: Sequence[Row], depth: int, places: _Places
    ) -> Mapping[str, Sequence[Reason]]:
        explained: dict[str, Sequence[Reason]] = {}
        for row in rows:
            child_id = row.get("child_id")
            if not child_id or row["status"] in STEP_FINAL or not places.take():
                continue
            try:
                child = await self._executions.get(workspace, child_id)
                explained[child_id] = await self._explain(workspace, child, depth=depth + 1, places=places)
            except Refused:
                explained[child_id] = [Reason("accepted", "it has not been accepted yet", execution_id=child_id)]
            except BusUnavailable:
                log.warning("what execution %s waits for cannot be read", child_id)
        return explained

    async def _items(self, found: Execution) -> Sequence[Row]:
        """Items that have not ended, those that wait for somebody among the first."""
        if found.view is not None:
            rows: Sequence[Row] = [one for one in found.view.steps if one["item"] >= 0]
            return [one for one in rows if one["status"] not in STEP_FINAL][:ITEMS_READ_MAX]
        if not any(step.get("item_count") and step["status"] not in STEP_FINAL for step in found.steps):
            return []
        return await self._projection.open_items(found.row["id"], ITEMS_READ_MAX)

    async def _queues(self, steps: Sequence[Row], items: Sequence[Row], found: Execution) -> dict[str, Queue]:
        """The queues of the kinds of work that are handed out and not begun."""
        if found.definition is None:
            return {}
        handed_out = {row["step"] for row in (*steps, *items) if row["status"] == "pending" and not row.get("child_id")}
        kinds = {step.kind for step_id, step in found.definition.steps.items() if step_id in handed_out}
        queues = {kind: await _known(self._queue(kind), None) for kind in WORK_KINDS if kind in kinds}
        return {kind: queue for kind, queue in queues.items() if queue is not None}

    async def _queue(self, kind: WorkKind) -> Queue:
        infos = [await self._consumer("WORK", work_consumer_name(kind, lane)) for lane in LANES]
        return Queue(
            sum(info["num_pending"] for info in infos),
            sum(info["num_ack_pending"] for info in infos),
            sum(info["num_waiting"] for info in infos),
        )

    async def _inbox(self, execution_id: str) -> Inbox:
        info = await self._consumer("INBOX", f"inbox-{partition_of(execution_id)}")
        groups = info.get("priority_groups") or ()
        held = any(group.get("group") == INBOX_GROUP and group.get("pinned_client_id") for group in groups)
        return Inbox(info["num_pending"], held)

    async def _line(self, row: Row) -> Line | None:
        if row.get("held") is None:
            return None
        gate, execution_id = row["held"]["gate"], row["id"]
        kept = await read_last(self._connection, "GATES", subjects.gate_state(gate))
        if kept is None:
            return None
        state = decode_gate(kept.payload).state
        ahead = sum(1 for one in state.next if one.execution_id != execution_id)
        own = subjects.gate_ticket(gate, execution_id)
        tickets = read_subject(self._connection, "GATES", subjects.gate_ticket(gate, "*"), state.cursor + 1)
        async for ticket in tickets:
            if ticket.subject == own or ahead >= AHEAD_MAX:
                break
            ahead += not decode_ticket(ticket.payload).verdict
        return Line(state.terms, len(state.inside), ahead, execution_id in state.inside)

    async def _last_event(self, execution_id: str) -> str:
        stored = await read_last_of_log(self._connection, execution_id)
        if stored is None:
            return "not known"
        event = decode_transition(stored.payload).events[-1]
        step = getattr(event, "step", None)
        name = str(event.__struct_config__.tag)
        return f"`{name}`" if step is None else f"`{name}` of step `{step}`"

    async def _consumer(self, stream: str, name: str) -> dict[str, Any]:
        return await self._connection.jetstream_api(f"CONSUMER.INFO.{stream}.{name}")


class _Places:
    """How many more child executions may be looked at."""

    def __init__(self, count: int) -> None:
        self._left = count

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


async def _known(answer: Awaitable[T], otherwise: T) -> T:
    """Return an answer, or `otherwise` when nobody can give it now."""
    try:
        return await answer
    except (BusUnavailable, BusRefused, MessageInvalid) as error:
        log.info("an explanation goes without a part: %s", error)
        return otherwise
    except Exception as error:
        if not is_unavailable(error) and not isinstance(error, NOT_THERE_YET):
            raise
        log.info("an explanation goes without what the database knows (%s)", type(error).__name__)
        return otherwise


def _begun(row: Row, begun: Mapping[tuple[str, int, int], tuple[datetime, str]]) -> Row:
    """Return a row as the fact that a runner has begun its attempt makes it: folded logs do not hold these facts."""
    fact = begun.get((row["step"], row["item"], row["attempt"]))
    if row["status"] != "pending" or fact is None:
        return row
    return {**row, "status": "running", "started_at": fact[0], "runner": fact[1]}
