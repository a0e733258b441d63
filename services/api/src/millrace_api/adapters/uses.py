"""The workflows and agents that an execution uses: fixed when it is accepted, looked for when a definition is saved."""

from __future__ import annotations

import asyncio

from millrace_api.adapters.binding import Binding
from millrace_api.adapters.catalogue import Catalogue, Launchable
from millrace_api.adapters.workflow_store import WorkflowStore
from millrace_api.domain.uses import Missing, calls_of, missing
from millrace_api.domain.workflows import Draft
from millrace_api.errors import Mistake, Refused
from millrace_shared.definition.limits import USES_MAX
from millrace_shared.definition.loader import load
from millrace_shared.definition.locations import Location, spell_location
from millrace_shared.messages import Use


class Uses:
    """Finds what `workflow` steps name, and saved agents."""

    def __init__(self, catalogue: Catalogue, workflows: WorkflowStore, binding: Binding) -> None:
        self._catalogue = catalogue
        self._binding = binding
        self._workflows = workflows

    async def resolve(self, workspace: str, target: Launchable) -> dict[str, Use]:
        """Return the versions that all `workflow` steps below `target` run, by `WorkflowCall.key`.

        A workflow that calls itself runs the version that is started.

        Raises:
            Refused: `workflow_not_found`, `workflow_version_not_found`, `workflow_archived`, `too_many_workflows`, or
                what `Catalogue.get` says of the agents that they use.
        """
        found: dict[str, Use] = {}
        waiting = [target]
        for caller in waiting:  # the list grows while it is read
            for location, call in calls_of(caller.definition):
                if call.key in found:
                    continue
                if len(found) >= USES_MAX:
                    message = f'workflow "{target.name}" uses more than {USES_MAX} workflows, theirs included'
                    raise Refused("too_many_workflows", message)
                if call.name == target.name and call.version in (None, target.version):
                    called = target
                else:
                    called = await self._called(workspace, caller, location, call.name, call.version)
                    waiting.append(called)
                found[call.key] = Use(called.workflow_id, called.version, called.content_hash)
        return found

    async def check(self, workspace: str, draft: Draft) -> None:
        """Check that the workflows and the saved agents that a definition names can be run.

        Raises:
            Refused: `workflow_invalid`, naming every one that cannot, and where.
        """
        found = [absent for _, absent in await self._binding.missing(workspace, draft.definition)]
        names = {call.name for _, call in calls_of(draft.definition)}
        if names:
            known = await self._workflows.known(workspace, names)
            suggested = await self._workflows.names(workspace) if names - set(known) else []
            found += missing(draft.definition, known, suggested)
        if not found:
            return
        mistakes = await asyncio.to_thread(_placed, draft.source, found)
        count = len(mistakes)
        detail = f"{mistakes[0]['loc']}: {mistakes[0]['msg']}" if count == 1 else f"the definition has {count} mistakes"
        raise Refused("workflow_invalid", detail, mistakes)

    async def _called(
        self, workspace: str, caller: Launchable, location: Location, name: str, version: int | None
    ) -> Launchable:
        try:
            called = await self._catalogue.get(workspace, name, version)
        except Refused as refusal:
            place = f'workflow "{caller.name}", {spell_location(location)}'
            mistake: Mistake = {"loc": spell_location(location), "msg": refusal.detail, "type": refusal.code}
            raise Refused(refusal.code, f"{place}: {refusal.detail}", [mistake]) from None
        if called.archived:
            message = f'workflow "{caller.name}", {spell_location(location)}: workflow "{name}" is archived'
            raise Refused("workflow_archived", message)
        return called


def _placed(source: str, found: list[Missing]) -> list[Mistake]:
    """Return mistakes with their lines. The source is read once more: only definitions with mistakes pay for it."""
    document = load(source)
    mistakes: list[Mistake] = []
    for one in found:
        mistake: Mistake = {"loc": spell_location(one.location), "msg": one.message, "type": "definition"}
        position = document.position(one.location)
        if position is not None:
            mistake["line"], mistake["column"] = position
        if one.suggestion is not None:
            mistake["suggestion"] = one.suggestion
        mistakes.append(mistake)
    return mistakes
