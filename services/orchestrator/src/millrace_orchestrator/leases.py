"""Leases: the start messages of the executions under way, which stay unacknowledged until these end (ADR 4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from millrace_orchestrator import metrics
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.bus.streams import LEASE_DELIVERIES_MAX
from millrace_shared.codec import encode
from millrace_shared.errors import MillraceError
from millrace_shared.ids import partition_of
from millrace_shared.messages import StartRequest

log = logging.getLogger(__name__)


class Leases:
    """The leases that were delivered to this process. That one is known here proves nothing: others may be newer."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._held: dict[str, Delivery] = {}

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._held

    async def hold(self, execution_id: str, lease: Delivery, *, ends: bool) -> None:
        """Keep a lease unacknowledged. An old one is put anew at the end of the stream, unless the execution `ends`."""
        if lease.delivered_count >= LEASE_DELIVERIES_MAX and not ends:
            try:
                await self._publisher.publish(Outgoing(lease.subject, lease.payload))
            except MillraceError as error:
                log.warning("the lease on %s is renewed later: %s", execution_id, error)
            else:
                metrics.leases_put["renewed"].inc()
                lease.ack()
                return
        self._held[execution_id] = lease.without_payload()  # a hundred thousand must fit into memory

    async def put(self, requests: Sequence[StartRequest]) -> list[MillraceError | None]:
        """Put new leases on executions that may have none; return for each why it could not be done, or None."""
        outgoing = [Outgoing(subjects.start(one.execution_id), encode(one)) for one in requests]
        results = await self._publisher.publish_all(outgoing)
        failures: list[MillraceError | None] = []
        for request, result in zip(requests, results, strict=True):
            failures.append(result if isinstance(result, MillraceError) else None)
            if failures[-1] is None:
                metrics.leases_put["woken"].inc()
                self.release(request.execution_id)  # the new one comes to us in a moment
        return failures

    def release(self, execution_id: str) -> None:
        """Acknowledge the lease: the execution has ended, sleeps, or has a newer one."""
        lease = self._held.pop(execution_id, None)
        if lease is not None:
            lease.ack()

    def lose(self, partition: int) -> None:
        """Forget the leases of a partition, which is another's now, and acknowledge none."""
        for execution_id in [one for one in self._held if partition_of(one) == partition]:
            del self._held[execution_id]
