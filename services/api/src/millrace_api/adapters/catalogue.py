"""What the hot path knows of workflows, without a query per request.

An entry is good until a save in its workspace is told (`ctl.workflow.<workspace>`, sent by every api process after a
commit), and for `FRESH_S` at most, since such a message may be lost. While the database is away an old entry still
serves: accepting an execution needs the bus alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from millrace_api.adapters.binding import Binding
from millrace_api.adapters.definitions import stored_definition
from millrace_api.adapters.workflow_store import WorkflowStore
from millrace_api.domain.input_check import InputCheck
from millrace_api.domain.uses import calls_of
from millrace_api.domain.workflows import Workflow
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.saved_agents import references_of
from millrace_shared.postgres import is_unavailable

log = logging.getLogger(__name__)

FRESH_S = 2.0
ENTRIES_MAX = 2_000
READ_TIMEOUT_S = 2.0
"""A database that does not answer for this long counts as away."""

_Key = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What is made of a definition once.

    Attributes:
        definition: what it does.
        inputs: what its input must be.
        has_calls: some of its steps run other workflows.
        has_references: some of its agents are saved ones.
    """

    definition: WorkflowDefinition
    inputs: InputCheck
    has_calls: bool
    has_references: bool


@dataclass(frozen=True, slots=True)
class Launchable:
    """One version of a workflow, ready to be started: saved agents are in their places, and in the hash."""

    workflow_id: str
    name: str
    version: int
    content_hash: str
    archived: bool
    compiled: Compiled

    @property
    def inputs(self) -> InputCheck:
        """What its input must be."""
        return self.compiled.inputs

    @property
    def definition(self) -> WorkflowDefinition:
        """What it does."""
        return self.compiled.definition


@dataclass(slots=True)
class _Entry:
    launchable: Launchable
    read_at: float


class Catalogue:
    """Workflows by (workspace, id or name, version)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store: WorkflowStore | None = None
        self._binding: Binding | None = None
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._reading: dict[_Key, asyncio.Task[Launchable]] = {}
        self._generation = 0

    async def start(self, store: WorkflowStore, binding: Binding) -> None:
        """Read from `store`, bind what uses saved agents, and hear of the saves of other processes."""
        self._store = store
        self._binding = binding
        await self._connection.listen(
            subjects.workflow_control("*"), lambda subject, *_: self._forget(subject.rsplit(".", 1)[1])
        )

    def changed(self, workspace: str) -> None:
        """A save was committed here: forget, and tell the other processes."""
        self._forget(workspace)
        self._connection.send(subjects.workflow_control(workspace), b"")

    async def get(self, workspace: str, ref: str, version: int | None) -> Launchable:
        """Return what is needed to start a workflow.

        Raises:
            Refused: `workflow_not_found`, `workflow_version_not_found`; `agent_not_found`, `agent_version_not_found`,
                `agent_archived` or `workflow_invalid` when a saved agent that it uses cannot be put in place.
            BusUnavailable: what was put in place cannot be kept.
        """
        key = (workspace, ref, version)
        entry = self._entries.get(key)
        if entry is not None and time.monotonic() - entry.read_at < FRESH_S:
            return entry.launchable
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.create_task(self._read(key), name="read workflow")
            self._reading[key] = reading
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        try:
            return await asyncio.shield(reading)
        except Exception as error:
            if entry is None or not is_unavailable(error):
                raise
            log.warning(
                "the database does not answer (%s): workflow %s is taken as last seen", type(error).__name__, ref
            )
            entry.read_at = time.monotonic()
            return entry.launchable

    def _forget(self, workspace: str) -> None:
        self._generation += 1
        for key in [key for key in self._entries if key[0] == workspace]:
            del self._entries[key]
        for key in [key for key in self._reading if key[0] == workspace]:
            del self._reading[key]  # it may have read before the save

    async def _read(self, key: _Key) -> Launchable:
        assert self._store is not None
        assert self._binding is not None
        generation = self._generation
        workspace, ref, version = key
        async with asyncio.timeout(READ_TIMEOUT_S):
            workflow = await self._store.get(workspace, ref, version)
            compiled, content_hash = self._compiled_of(workflow), workflow.content_hash
            archived = workflow.archived_at is not None
            if compiled.has_references and not archived:
                bound = await self._binding.bound(workspace, compiled.definition, content_hash)
                compiled, content_hash = replace(compiled, definition=bound.definition), bound.content_hash
        launchable = Launchable(workflow.id, workflow.name, workflow.version, content_hash, archived, compiled)
        if generation == self._generation:
            self._entries[key] = _Entry(launchable, time.monotonic())
            if len(self._entries) > ENTRIES_MAX:
                self._entries.popitem(last=False)
        return launchable

    def _compiled_of(self, workflow: Workflow) -> Compiled:
        compiled = self._compiled.get(workflow.content_hash)
        if compiled is None:
            assert workflow.definition is not None
            definition = stored_definition(workflow.definition, workflow.content_hash)
            has_calls = next(calls_of(definition), None) is not None
            compiled = Compiled(definition, InputCheck(definition), has_calls, bool(references_of(definition)))
            self._compiled[workflow.content_hash] = compiled
            if len(self._compiled) > ENTRIES_MAX:
                self._compiled.popitem(last=False)
        return compiled
