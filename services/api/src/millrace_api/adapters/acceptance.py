"""Accepting an execution: one durable message, and before it one more when the execution has a name.

The name's message is the idempotency check: its subject takes one message, ever. The start message is what makes
the execution run; storing it again is refused by its own fence, so a repeat of a name makes sure that it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_api.adapters.catalogue import Catalogue, Launchable
from millrace_api.adapters.uses import Uses
from millrace_api.domain.launch import Launch, read_breakpoints, same_input
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_api.metrics import executions_accepted
from millrace_shared import subjects
from millrace_shared.blobs import INLINE_BYTES_MAX, Blobs
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.group_commit import GroupCommit
from millrace_shared.bus.log_reader import read_first_of_log, read_last
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import decode_request, decode_transition, encode
from millrace_shared.errors import BusUnavailable, ValueTooLarge
from millrace_shared.ids import named_execution_id, new_id
from millrace_shared.messages import NOTHING, ExecutionStarted, Origin, StartRequest
from millrace_shared.tracing import parse_traceparent
from millrace_shared.values import Payload


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that passed every check and has an id, but is not stored yet.

    `launch` is what asked for it; None when it was made from an earlier execution's.
    """

    request: StartRequest
    launch: Launch | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An execution that is durable. `request` is the stored one; `first` tells whether this call stored it."""

    request: StartRequest
    first: bool


class Acceptance:
    """Turns launches into stored requests."""

    def __init__(
        self,
        connection: Connection,
        catalogue: Catalogue,
        names: GroupCommit,
        starts: GroupCommit,
        blobs: Blobs,
        uses: Uses,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._uses = uses
        self._names = names
        self._starts = starts
        self._blobs = blobs
        self._now = now

    async def prepare(
        self,
        identity: Identity,
        launch: Launch,
        body_size_bytes: int,
        traceparent: str | None,
        origin: Origin | None = None,
    ) -> Candidate:
        """Check a launch and give it its id. Nothing is started yet.

        Raises:
            Refused: `workflow_not_found`, `workflow_version_not_found`, `workflow_archived`, `too_many_workflows`,
                `input_invalid`, or `request_invalid` for a breakpoint that is no step.
            BlobUnavailable: the input is large and the blob store does not take it.
        """
        assert launch.workflow is not None
        target = await self._catalogue.get(identity.workspace, launch.workflow, launch.version)
        if target.archived:
            raise Refused("workflow_archived", f'workflow "{target.name}" is archived: nothing starts it any more')
        if launch.execution_name is None:
            execution_id = new_id()
        else:
            execution_id = named_execution_id(identity.workspace, target.workflow_id, launch.execution_name)
        return Candidate(
            StartRequest(
                execution_id=execution_id,
                workspace=identity.workspace,
                workflow_id=target.workflow_id,
                workflow_name=target.name,
                workflow_version=target.version,
                definition=target.content_hash,
                requested_at=self._now(),
                input=await self._input(identity, target, launch, body_size_bytes),
                execution_name=launch.execution_name,
                labels=launch.labels or {},
                priority=launch.priority or target.definition.priority,
                requested_by=identity.subject,
                traceparent=traceparent if parse_traceparent(traceparent) else None,
                uses=await self._uses.resolve(identity.workspace, target) if target.compiled.has_calls else {},
                origin=origin,
                breakpoints=read_breakpoints(target.definition, launch.breakpoints) if launch.breakpoints else (),
            ),
            launch,
        )

    def derive(
        self,
        identity: Identity,
        earlier: StartRequest,
        origin: Origin,
        *,
        execution_name: str | None,
        traceparent: str | None,
        **changes: Any,
    ) -> Candidate:
        """Make a request from an earlier execution's: at the top, with an id of its own, and else as it was.

        What that one had from its parent (deadline and budget, too) is left behind. `changes` are further differences.
        """
        if execution_name is None:
            execution_id = new_id()
        else:
            execution_id = named_execution_id(identity.workspace, earlier.workflow_id, execution_name)
        own: dict[str, Any] = {
            "execution_id": execution_id,
            "requested_at": self._now(),
            "execution_name": execution_name,
            "requested_by": identity.subject,
            "traceparent": traceparent if parse_traceparent(traceparent) else None,
            "parent": None,
            "deadline": None,
            "budget_usd": None,
            "budgets": (),
            "origin": origin,
            "reuse": NOTHING,
            "breakpoints": (),
        }
        return Candidate(msgspec.structs.replace(earlier, **(own | changes)))

    async def store(self, candidate: Candidate) -> Accepted:
        """Make a candidate durable, or find the first request of its name.

        Raises:
            Refused: `execution_name_conflict`.
            BusUnavailable: NATS did not answer; whether it stored the request is unknown.
        """
        request = candidate.request
        first = True
        if request.execution_name is not None:
            first = await self._store_once(self._names, subjects.named_request(request.execution_id), request)
            if not first:
                request = await self._first(candidate)
        await self._store_once(self._starts, subjects.start(request.execution_id), request)
        if first:
            executions_accepted.inc()
        return Accepted(request, first=first)

    async def drain(self) -> None:
        """Return when every request that was handed to the bus is settled."""
        await self._names.drain()
        await self._starts.drain()

    async def find(self, workspace: str, execution_id: str) -> StartRequest | None:
        """Return the stored request of an execution, or None when the workspace has no such execution."""
        stored = await read_last(self._connection, "INBOX", subjects.start(execution_id))
        if stored is None:  # the inbox is swept of what has ended; names are kept for ever
            stored = await read_last(self._connection, "REQUESTS", subjects.named_request(execution_id))
        request = await self._of_log(execution_id) if stored is None else decode_request(stored.payload)
        return request if request is not None and request.workspace == workspace else None

    async def _of_log(self, execution_id: str) -> StartRequest | None:
        """Return the request that a log begins with."""
        stored = await read_first_of_log(self._connection, execution_id)
        if stored is None:
            return None
        began = decode_transition(stored.payload).events[0]
        return began.request if isinstance(began, ExecutionStarted) else None

    async def _store_once(self, group: GroupCommit, subject: str, request: StartRequest) -> bool:
        """Store a request on a subject that takes one; tell whether this call did."""
        try:
            await group.publish(Outgoing(subject, encode(request), expected_last_sequence=0))
        except WrongLastSequence:
            return False
        return True

    async def _input(self, identity: Identity, target: Launchable, launch: Launch, body_size_bytes: int) -> Payload:
        data = target.inputs.check(launch.input or {})
        if not data:
            return NOTHING
        if body_size_bytes + target.inputs.defaults_size_bytes <= INLINE_BYTES_MAX:
            return Payload(data=data)
        try:
            return await self._blobs.pack(identity.workspace, data)
        except ValueTooLarge as error:  # a trigger's mapping can make a large input of a small event
            raise Refused("input_invalid", f"the input is too large: {error}") from None

    async def _first(self, candidate: Candidate) -> StartRequest:
        """Return the request that was stored under this id before, when it is the same one."""
        request, launch = candidate.request, candidate.launch
        first = await self.find(request.workspace, request.execution_id)
        if first is None:
            raise BusUnavailable("the first request of this execution_name cannot be read; try again")
        if launch is None or first.origin != request.origin:
            return await self._same_derived(first, request)
        if launch.version is not None and launch.version != first.workflow_version:
            raise _conflict(first, f"it started version {first.workflow_version}")
        data = launch.input or {}
        # A later version may have other defaults: the repeat is read as the first one was.
        target = await self._catalogue.get(request.workspace, first.workflow_id, first.workflow_version)
        try:
            data = target.inputs.check(data)
        except Refused:
            raise _conflict(first, "it has another input") from None
        if not same_input(data or None, await self._blobs.unpack(first.workspace, first.input) or None):
            raise _conflict(first, "it has another input")
        return first

    async def _same_derived(self, first: StartRequest, request: StartRequest) -> StartRequest:
        """Return `first` when it was made from the same execution in the same way as `request`."""
        if first.origin != request.origin:
            raise _conflict(first, "it was started otherwise")
        if first.definition != request.definition:
            raise _conflict(first, f"it started version {first.workflow_version}")
        data = await self._blobs.unpack(request.workspace, request.input)
        if not same_input(data or None, await self._blobs.unpack(first.workspace, first.input) or None):
            raise _conflict(first, "it has another input")
        return first


def _conflict(first: StartRequest, difference: str) -> Refused:
    return Refused(
        "execution_name_conflict",
        f'there is an execution "{first.execution_name}" of this workflow already, and {difference}',
        execution_id=first.execution_id,
    )
