"""Plans by content hash and part: read from DEFINITIONS once, compiled once, kept while they are used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict

from pydantic import ValidationError

from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_orchestrator.errors import DefinitionMissing
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import PartUnknown, part_of
from millrace_shared.expressions.errors import ExpressionFailure

CACHE_MAX = 256


class Plans:
    """The plans of the definitions in use."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Task[Plan]] = {}

    def known(self, content_hash: str, part: str = "") -> Plan | None:
        """Return the plan of a definition, or of a group in it, if it is in memory."""
        plan = self._plans.get((content_hash, part))
        if plan is not None:
            self._plans.move_to_end((content_hash, part))
        return plan

    async def get(self, content_hash: str, part: str = "") -> Plan:
        """Return the plan of a definition, or of a group in it (see `StartRequest.part`).

        Raises:
            DefinitionMissing: there is none under this hash, or this version cannot read it.
            BusUnavailable: the server did not answer.
        """
        plan = self.known(content_hash, part)
        if plan is None:
            key = (content_hash, part)
            plan = self._plans[key] = await self._load_once(key)
            if len(self._plans) > CACHE_MAX:
                self._plans.popitem(last=False)
        return plan

    async def store(self, content_hash: str, document: bytes) -> None:
        """Store the definition of a dynamic plan, unless it is there already.

        Raises:
            BusRefused, BusUnavailable: it is not stored.
        """
        with contextlib.suppress(WrongLastSequence):
            await self._publisher.publish(
                Outgoing(subjects.definition(content_hash), document, expected_last_sequence=0)
            )

    async def _load_once(self, key: tuple[str, str]) -> Plan:
        """Load a definition once for all that ask for it now: compiling a large one takes a second."""
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._load(*key), name="load plan")
            loading.add_done_callback(lambda _: self._loading.pop(key, None))
        return await asyncio.shield(loading)

    async def _load(self, content_hash: str, part: str) -> Plan:
        stored = await read_last(self._connection, "DEFINITIONS", subjects.definition(content_hash))
        if stored is None:
            raise DefinitionMissing(f"no definition is stored under {content_hash}; save the workflow again")
        try:
            return compile_plan(part_of(WorkflowDefinition.model_validate_json(stored.payload), part))
        except (ValidationError, ExpressionFailure, PartUnknown) as error:
            raise DefinitionMissing(f"definition {content_hash} cannot be read by this version: {error}") from error
