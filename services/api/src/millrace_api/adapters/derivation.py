"""Executions made from earlier ones: retried from where they failed, forked from a step, or replayed as a whole."""

from __future__ import annotations

from typing import Any

import msgspec

from millrace_api.adapters.acceptance import Acceptance, Accepted
from millrace_api.adapters.catalogue import Catalogue, Launchable
from millrace_api.adapters.definitions import Definitions
from millrace_api.adapters.histories import Histories
from millrace_api.adapters.uses import Uses
from millrace_api.domain.history import History
from millrace_api.domain.launch import Breakpoints, read_breakpoints
from millrace_api.domain.requests import Again, Fork
from millrace_api.domain.reuse import Source, reuse_of
from millrace_api.domain.step_steering import step_of
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_shared.blobs import Blobs
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.errors import BusUnavailable, ValueTooLarge
from millrace_shared.messages import NOTHING, Origin, Reuse, StartRequest
from millrace_shared.values import Payload

REUSE_DEPTH_MAX = 64
"""Children below children whose results are taken over; those further down run anew. Bounds the nesting of JSON."""
REUSE_CHILDREN_MAX = 1_000
"""Children of one execution, theirs included, whose results are taken over; the others run anew."""


class Derivation:
    """Starts executions from earlier ones."""

    def __init__(
        self,
        acceptance: Acceptance,
        histories: Histories,
        definitions: Definitions,
        catalogue: Catalogue,
        uses: Uses,
        blobs: Blobs,
    ) -> None:
        self._acceptance = acceptance
        self._histories = histories
        self._definitions = definitions
        self._catalogue = catalogue
        self._uses = uses
        self._blobs = blobs

    async def retry(
        self, identity: Identity, execution_id: str, wanted: Again, traceparent: str | None = None
    ) -> Accepted:
        """Start an execution that goes on where another one failed.

        Raises:
            Refused: `execution_not_found`, `execution_not_finished`, `execution_not_failed`, `execution_is_part`,
                `workflow_archived`, `execution_name_conflict`, `request_invalid`, `reuse_too_large`.
            BusUnavailable, BlobUnavailable: a store does not answer.
        """
        earlier, history = await self._ended(identity, execution_id)
        if history.status == "completed":
            raise Refused("execution_not_failed", "the execution completed: replay it, or fork it from a step")
        definition = await self._definition(earlier)
        breakpoints = _breakpoints(definition, wanted.breakpoints)
        reuse = await self._reuse(Source(execution_id, history, definition))
        candidate = self._acceptance.derive(
            identity,
            earlier,
            Origin("retry", execution_id),
            execution_name=wanted.execution_name,
            traceparent=traceparent,
            reuse=await self._packed(identity.workspace, reuse),
            breakpoints=breakpoints,
        )
        return await self._acceptance.store(candidate)

    async def replay(
        self, identity: Identity, execution_id: str, wanted: Again, traceparent: str | None = None
    ) -> Accepted:
        """Start an execution of the same version and input as another one.

        Raises:
            Refused: as `retry` does, but for `execution_not_failed`.
            BusUnavailable: the bus does not answer.
        """
        earlier, _ = await self._ended(identity, execution_id)
        breakpoints = _breakpoints(await self._definition(earlier), wanted.breakpoints)
        candidate = self._acceptance.derive(
            identity,
            earlier,
            Origin("replay", execution_id),
            execution_name=wanted.execution_name,
            traceparent=traceparent,
            breakpoints=breakpoints,
        )
        return await self._acceptance.store(candidate)

    async def fork(
        self, identity: Identity, execution_id: str, wanted: Fork, traceparent: str | None = None
    ) -> Accepted:
        """Start an execution that has what came before a step from another one, and runs the rest.

        The other one may still be under way: what it has completed so far is taken over.

        Raises:
            Refused: `step_not_found`, `input_invalid`, `workflow_version_not_found`, or as `replay` does.
            BusUnavailable, BlobUnavailable: a store does not answer.
        """
        earlier, history = await self._histories.get(identity.workspace, execution_id)
        latest = await self._launchable(identity, earlier)
        changes: dict[str, Any] = {}
        definition = await self._definition(earlier)
        target = None
        if wanted.version is not None and wanted.version != earlier.workflow_version:
            target = await self._catalogue.get(identity.workspace, earlier.workflow_id, wanted.version)
            definition = target.definition
            changes = await self._of_version(identity, target)
        step_of(definition, wanted.from_step)
        if wanted.input is not None or target is not None:
            checked = target or await self._version(identity, earlier, latest)
            changes["input"] = await self._input(identity, checked, wanted.input, earlier.input)
        source = Source(execution_id, history, definition, from_step=wanted.from_step, is_partial=False)
        candidate = self._acceptance.derive(
            identity,
            earlier,
            Origin("fork", execution_id, step=wanted.from_step),
            execution_name=wanted.execution_name,
            traceparent=traceparent,
            reuse=await self._packed(identity.workspace, reuse_of(source, {})),
            breakpoints=_breakpoints(definition, wanted.breakpoints),
            **changes,
        )
        return await self._acceptance.store(candidate)

    async def _ended(self, identity: Identity, execution_id: str) -> tuple[StartRequest, History]:
        earlier, history = await self._histories.get(identity.workspace, execution_id)
        if history.finished is None:
            message = f"the execution is {history.status}: wait for its end, or cancel it first"
            raise Refused("execution_not_finished", message)
        await self._launchable(identity, earlier)
        return earlier, history

    async def _launchable(self, identity: Identity, earlier: StartRequest) -> Launchable:
        """Return the latest version of an execution's workflow, if it may be started at all."""
        if earlier.parent is not None and earlier.parent.inline:
            parent = earlier.parent
            raise Refused(
                "execution_is_part",
                f'it performs step "{parent.step}" of execution {parent.execution_id}: ask the same of {parent.root}',
                execution_id=parent.root,
            )
        latest = await self._catalogue.get(identity.workspace, earlier.workflow_id, None)
        if latest.archived:
            raise Refused("workflow_archived", f'workflow "{latest.name}" is archived: nothing starts it any more')
        return latest

    async def _version(self, identity: Identity, earlier: StartRequest, latest: Launchable) -> Launchable:
        if latest.version == earlier.workflow_version:
            return latest
        return await self._catalogue.get(identity.workspace, earlier.workflow_id, earlier.workflow_version)

    async def _of_version(self, identity: Identity, target: Launchable) -> dict[str, Any]:
        """Return what is different in a request for another version of its workflow."""
        return {
            "workflow_name": target.name,
            "workflow_version": target.version,
            "definition": target.content_hash,
            "uses": await self._uses.resolve(identity.workspace, target) if target.compiled.has_calls else {},
        }

    async def _input(
        self, identity: Identity, target: Launchable, given: dict[str, Any] | None, earlier: Payload
    ) -> Payload:
        """Return the input of a fork: what is given, else the earlier one, if that fits the version."""
        data = given if given is not None else await self._blobs.unpack(identity.workspace, earlier)
        checked = target.inputs.check(data or {})
        return await self._blobs.pack(identity.workspace, checked) if checked else NOTHING

    async def _definition(self, request: StartRequest) -> WorkflowDefinition:
        definition = await self._definitions.get(request.definition, request.part)
        if definition is None:
            raise BusUnavailable(f"the definition {request.definition} of {request.execution_id} cannot be read")
        return definition

    async def _reuse(self, root: Source) -> Reuse:
        """Return what a retry of `root` takes over, with what its unfinished children had done."""
        children: dict[str, Source] = {}
        level = [root]
        for _ in range(REUSE_DEPTH_MAX):
            ids = [child for source in level for child in source.children.values()]
            level = []
            for child in ids[: REUSE_CHILDREN_MAX - len(children)]:
                source = await self._child(child)
                if source is not None:
                    children[child] = source
                    level.append(source)
            if not level:
                break
        return reuse_of(root, children)

    async def _child(self, execution_id: str) -> Source | None:
        """Return a child; None when it never began, or completed although its step did not."""
        history = await self._histories.read(execution_id)
        if history.request is None or history.status == "completed":
            return None
        return Source(execution_id, history, await self._definition(history.request))

    async def _packed(self, workspace: str, reuse: Reuse) -> Payload:
        if not reuse.steps:
            return NOTHING
        try:
            return await self._blobs.pack(workspace, msgspec.to_builtins(reuse, str_keys=True))
        except ValueTooLarge as error:
            raise Refused("reuse_too_large", f"the results that would be taken over are too large: {error}") from None


def _breakpoints(definition: WorkflowDefinition, given: Breakpoints | None) -> tuple[str, ...]:
    return read_breakpoints(definition, given) if given else ()
