"""Snapshots in their stream: one for each long execution, the last one. Losing any of them costs a longer fold."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from millrace_orchestrator import metrics
from millrace_orchestrator.domain.snapshot import Snapshot, decode_snapshot, encode_snapshot
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import Stored, read_last, transitions_of
from millrace_shared.bus.streams import MESSAGE_BYTES_MAX
from millrace_shared.codec import decode_transition, encode
from millrace_shared.errors import MessageInvalid
from millrace_shared.messages import StartRequest, Transition

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 500
"""Transitions. A log is folded from its last snapshot, so this bounds the fold."""


class Snapshots:
    """Takes snapshots of long executions, and finds them again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def consider(self, state: ExecutionState, sequence: int, at: float) -> None:
        """Take a snapshot now and then of an execution that goes on; remove the one of an execution that has ended.

        Nobody waits for either.
        """
        subject = subjects.snapshot(state.execution_id)
        if state.finished:
            if state.version > SNAPSHOT_EVERY:
                self._connection.send("$JS.API.STREAM.PURGE.SNAPSHOTS", encode({"filter": subject}))
            return
        if state.version % SNAPSHOT_EVERY:
            return
        try:
            payload = encode_snapshot(state, sequence, at)
        except (msgspec.MsgspecError, NotImplementedError, TypeError, ValueError):
            log.exception("execution %s has a state that no snapshot can hold: a bug", state.execution_id)
            return
        if len(payload) > MESSAGE_BYTES_MAX:
            log.warning("execution %s has a state of %d bytes: no snapshot", state.execution_id, len(payload))
            return
        metrics.snapshots["taken"].inc()
        self._connection.send(subject, payload)

    async def rest(self, request: StartRequest) -> tuple[Snapshot, list[Transition], Sequence[Stored]] | None:
        """Return the last snapshot of an execution, the transitions after it, and the log from its transition on.

        None when there is no snapshot, or any doubt about it.

        Raises:
            BusUnavailable: the server did not answer.
        """
        stored = await read_last(self._connection, "SNAPSHOTS", subjects.snapshot(request.execution_id))
        if stored is None:
            return None
        snapshot = decode_snapshot(stored.payload)
        if snapshot is None or _what_it_runs(snapshot.state.request) != _what_it_runs(request):
            metrics.snapshots["doubted"].inc()
            return None
        stored_since = transitions_of(self._connection, request.execution_id, snapshot.sequence)
        found = [one async for one in stored_since]
        try:
            transitions = [decode_transition(one.payload) for one in found]
        except MessageInvalid:
            transitions = []
        version = snapshot.state.version
        numbers = [transition.version for transition in transitions]
        if not found or found[0].sequence != snapshot.sequence or numbers != list(range(version, version + len(found))):
            metrics.snapshots["doubted"].inc()
            return None
        metrics.snapshots["used"].inc()
        return snapshot, transitions[1:], found


def _what_it_runs(request: StartRequest) -> tuple[str, str, str]:
    return request.execution_id, request.definition, request.part
