"""The same for many executions at once: those that a filter finds, each on its own merits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace_api.adapters.derivation import Derivation
from millrace_api.adapters.projection_reader import ProjectionReader
from millrace_api.domain.filters import ExecutionFilter
from millrace_api.domain.rendering import FINAL, Row
from millrace_api.domain.requests import Again
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_shared import subjects
from millrace_shared.bus.group_commit import GroupCommit
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.errors import UpgradeNeeded
from millrace_shared.ids import new_id
from millrace_shared.messages import CancelRequest

RETRIES_AT_ONCE_MAX = 8
"""Retries of one request that are made at once: each reads a whole log."""


@dataclass(slots=True)
class BulkOutcome:
    """What was done, and what was not and why. `matched`: how many executions the filter finds in all."""

    matched: int
    done: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)


class Bulk:
    """Cancels and retries by filter."""

    def __init__(self, projection: ProjectionReader, derivation: Derivation, inbox: GroupCommit) -> None:
        self._projection = projection
        self._derivation = derivation
        self._inbox = inbox

    async def cancel(
        self, identity: Identity, chosen: ExecutionFilter, limit: int, reason: str, *, dry_run: bool
    ) -> BulkOutcome:
        """Ask executions to stop, newest first.

        Raises:
            BusUnavailable: NATS did not answer; some may have been asked.
        """

        async def cancel(row: Row) -> dict[str, Any]:
            if row["status"] in FINAL:
                raise Refused("execution_already_finished", f"the execution has ended already: {row['status']}")
            if not dry_run:
                message = CancelRequest(row["id"], id=new_id(), reason=reason, requested_by=identity.subject)
                await self._inbox.publish(Outgoing(subjects.inbox(row["id"]), encode(message)))
            return {"execution_id": row["id"]}

        return await self._each(identity, chosen, limit, cancel, limit)

    async def retry(self, identity: Identity, chosen: ExecutionFilter, limit: int, *, dry_run: bool) -> BulkOutcome:
        """Retry executions, newest first. One that was retried like this before is not retried again.

        Raises:
            BusUnavailable: NATS did not answer; some may have been started.
        """

        async def retry(row: Row) -> dict[str, Any]:
            if row["status"] not in FINAL:
                raise Refused("execution_not_finished", f"the execution is {row['status']}")
            if row["status"] == "completed":
                raise Refused("execution_not_failed", "the execution completed")
            if dry_run:
                return {"execution_id": row["id"]}
            accepted = await self._derivation.retry(identity, row["id"], Again(execution_name=f"retry:{row['id']}"))
            new = accepted.request.execution_id
            if not accepted.first:
                raise Refused("already_retried", f"execution {new} is the retry of it", new_execution_id=new)
            return {"execution_id": row["id"], "new_execution_id": new}

        return await self._each(identity, chosen, limit, retry, RETRIES_AT_ONCE_MAX)

    async def _each(
        self,
        identity: Identity,
        chosen: ExecutionFilter,
        limit: int,
        act: Callable[[Row], Awaitable[dict[str, Any]]],
        at_once: int,
    ) -> BulkOutcome:
        rows, matched = await self._projection.page(identity.workspace, chosen, limit, 0)
        outcome = BulkOutcome(matched)
        places = asyncio.Semaphore(at_once)

        async def one(row: Row) -> dict[str, Any] | Refused:
            async with places:
                try:
                    return await act(row)
                except Refused as refusal:
                    return refusal
                except UpgradeNeeded as error:  # this one's log alone
                    return Refused("upgrade_needed", str(error))

        results: Sequence[dict[str, Any] | Refused | BaseException]
        results = await asyncio.gather(*map(one, rows), return_exceptions=True)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Refused):
                refused = {"execution_id": row["id"], "code": result.code, "detail": result.detail, **result.extra}
                outcome.refused.append(refused)
            elif isinstance(result, BaseException):
                raise result
            else:
                outcome.done.append(result)
        return outcome
