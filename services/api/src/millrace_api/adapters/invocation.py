"""Agents that run alone: an execution of a workflow of one step, which is made from the agent and saved nowhere."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from millrace_api.adapters.acceptance import Acceptance, Candidate
from millrace_api.adapters.agent_store import AgentStore
from millrace_api.adapters.definitions import keep_definition
from millrace_api.domain.agents import Invocation, SavedAgent
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_shared.blobs import Blobs
from millrace_shared.bus.publisher import Publisher
from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.saved_agents import alone
from millrace_shared.errors import ValueTooLarge
from millrace_shared.ids import named_execution_id, new_id
from millrace_shared.messages import StartRequest
from millrace_shared.tracing import parse_traceparent
from millrace_shared.values import Payload

ENTRIES_MAX = 2_000


class Invocations:
    """Turns invocations of agents into requests that `Acceptance` stores.

    The execution's workflow is the agent: it has the agent's id, name and version.
    """

    def __init__(
        self,
        agents: AgentStore,
        acceptance: Acceptance,
        publisher: Publisher,
        blobs: Blobs,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._agents = agents
        self._acceptance = acceptance
        self._publisher = publisher
        self._blobs = blobs
        self._now = now
        self._kept: OrderedDict[tuple[str, bool], str] = OrderedDict()

    async def prepare(self, identity: Identity, ref: str, wanted: Invocation, traceparent: str | None) -> Candidate:
        """Check an invocation and give it its id. Nothing is started yet.

        Raises:
            Refused: `agent_not_found`, `agent_version_not_found`, `agent_archived`, `input_invalid`.
            BusUnavailable, BlobUnavailable: a store does not answer.
        """
        agent = await self._agents.get(identity.workspace, ref, wanted.version)
        if agent.archived_at is not None:
            raise Refused("agent_archived", f'agent "{agent.name}" is archived: nothing starts it any more')
        definition, version = await self._definition(agent, with_input=wanted.input is not None), agent.version
        execution_id = new_id()
        if wanted.execution_name is not None:
            execution_id = named_execution_id(identity.workspace, agent.id, wanted.execution_name)
            first = await self._acceptance.find(identity.workspace, execution_id)
            if first is not None and wanted.version in (None, first.workflow_version):
                definition, version = first.definition, first.workflow_version  # a repeat is of the version back then
        request = StartRequest(
            execution_id=execution_id,
            workspace=identity.workspace,
            workflow_id=agent.id,
            workflow_name=agent.name,
            workflow_version=version,
            definition=definition,
            requested_at=self._now(),
            input=await self._input(identity, wanted),
            execution_name=wanted.execution_name,
            labels=wanted.labels or {},
            priority=wanted.priority or "normal",
            requested_by=identity.subject,
            traceparent=traceparent if parse_traceparent(traceparent) else None,
        )
        return Candidate(request)

    async def _input(self, identity: Identity, wanted: Invocation) -> Payload:
        data: dict[str, Any] = {"prompt": wanted.prompt}
        if wanted.input is not None:
            data["input"] = wanted.input
        try:
            return await self._blobs.pack(identity.workspace, data)
        except ValueTooLarge as error:
            raise Refused("input_invalid", f"the input is too large: {error}") from None

    async def _definition(self, agent: SavedAgent, *, with_input: bool) -> str:
        """Return the hash of the definition by which an agent runs alone; it is on the bus."""
        key = agent.content_hash, with_input
        kept = self._kept.get(key)
        if kept is None:
            canonical = canonical_json(alone(agent.name, agent.agent, with_input=with_input))
            kept = content_hash(canonical)
            await keep_definition(self._publisher, kept, canonical)
            self._kept[key] = kept
            if len(self._kept) > ENTRIES_MAX:
                self._kept.popitem(last=False)
        return kept
