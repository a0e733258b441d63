"""Plans by content hash: read from DEFINITIONS once, compiled once, kept while they are used."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from pydantic import ValidationError

from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_orchestrator.errors import DefinitionMissing
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.expressions.errors import ExpressionFailure

CACHE_MAX = 256


class Plans:
    """The plans of the definitions in use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Plan]] = {}

    async def get(self, content_hash: str) -> Plan:
        """Return the plan of a definition.

        Raises:
            DefinitionMissing: there is none under this hash, or this version cannot read it.
            BusUnavailable: the server did not answer.
        """
        plan = self._plans.get(content_hash)
        if plan is None:
            plan = await self._load_once(content_hash)
            self._plans[content_hash] = plan
            if len(self._plans) > CACHE_MAX:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(content_hash)
        return plan

    async def _load_once(self, content_hash: str) -> Plan:
        """Load a definition once for all that ask for it now: compiling a large one takes a second."""
        loading = self._loading.get(content_hash)
        if loading is None:
            loading = self._loading[content_hash] = asyncio.create_task(self._load(content_hash), name="load plan")
            loading.add_done_callback(lambda _: self._loading.pop(content_hash, None))
        return await asyncio.shield(loading)

    async def _load(self, content_hash: str) -> Plan:
        stored = await read_last(self._connection, "DEFINITIONS", subjects.definition(content_hash))
        if stored is None:
            raise DefinitionMissing(f"no definition is stored under {content_hash}; save the workflow again")
        try:
            return compile_plan(WorkflowDefinition.model_validate_json(stored.payload))
        except (ValidationError, ExpressionFailure) as error:
            raise DefinitionMissing(f"definition {content_hash} cannot be read by this version: {error}") from error
