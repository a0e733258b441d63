"""Saved agents in the place of what refers to them: definitions that stand for themselves, kept on the bus.

What is bound has a content hash of its own, by which executions refer to it. A definition that uses no saved agent
never comes here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from millrace_api.adapters.agent_store import AgentStore
from millrace_api.adapters.definitions import keep_definition
from millrace_api.domain.agents import SavedAgent, missing_agents
from millrace_api.domain.uses import Missing
from millrace_api.errors import Mistake, Refused
from millrace_shared.bus.publisher import Publisher
from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.locations import spell_location
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.saved_agents import BindingImpossible, bind, references_of

ENTRIES_MAX = 2_000

_Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Bound:
    """A definition with its agents in place. It is on the bus under its hash."""

    definition: WorkflowDefinition
    content_hash: str


class Binding:
    """Binds definitions, and remembers those that it has bound."""

    def __init__(self, agents: AgentStore, publisher: Publisher) -> None:
        self._agents = agents
        self._publisher = publisher
        self._known: OrderedDict[_Key, Bound] = OrderedDict()

    async def bound(self, workspace: str, definition: WorkflowDefinition, unbound_hash: str) -> Bound:
        """Return a definition with the saved agents that it uses, as they are now.

        Raises:
            Refused: `agent_not_found`, `agent_version_not_found`, `agent_archived`, `workflow_invalid`.
            BusUnavailable: the bus did not take it.
        """
        saved = await self._agents.known(workspace, references_of(definition).values())
        for code, absent in await self.missing(workspace, definition, saved):
            place = spell_location(absent.location)
            mistake: Mistake = {"loc": place, "msg": absent.message, "type": code}
            raise Refused(code, f'workflow "{definition.name}", {place}: {absent.message}', [mistake])
        key = unbound_hash, tuple(sorted((reference, one.content_hash) for reference, one in saved.items()))
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        try:
            whole = bind(definition, {reference: one.agent for reference, one in saved.items()})
        except BindingImpossible as error:
            raise Refused("workflow_invalid", str(error)) from None
        canonical = canonical_json(whole)
        bound = Bound(whole, content_hash(canonical))
        await keep_definition(self._publisher, bound.content_hash, canonical)
        self._known[key] = bound
        if len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)
        return bound

    async def missing(
        self, workspace: str, definition: WorkflowDefinition, saved: Mapping[str, SavedAgent] | None = None
    ) -> list[tuple[str, Missing]]:
        """Return the agents of a definition that refer to none; `saved` are those that are known already."""
        references = set(references_of(definition).values())
        if not references:
            return []
        if saved is None:
            saved = await self._agents.known(workspace, references)
        there = await self._agents.names(workspace) if references - saved.keys() else []
        return missing_agents(definition, saved, there)
