"""Workflows in Postgres: versions that never change, saved one after the other however many save at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from millrace_api.adapters import workflow_sql as sql
from millrace_api.adapters.definitions import keep_definition
from millrace_api.domain.uses import Known
from millrace_api.domain.workflows import Draft, Workflow
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_shared.bus.publisher import Publisher
from millrace_shared.ids import new_id
from millrace_shared.postgres import Pool

NAMES_MAX = 10_000
"""Names that are compared with one that does not exist."""


class WorkflowStore:
    """Saves, archives and reads workflows.

    Args:
        pool: the database.
        publisher: the bus, which keeps every definition under its content hash.
        changed: called with the workspace after each save, once it is committed.
    """

    def __init__(self, pool: Pool, publisher: Publisher, changed: Callable[[str], None]) -> None:
        self._pool = pool
        self._publisher = publisher
        self._changed = changed

    async def create(self, identity: Identity, draft: Draft) -> Workflow:
        """Save the first version of a new workflow.

        Raises:
            Refused: `workflow_exists`.
        """
        await self._publish(draft)
        name = draft.definition.name
        async with self._pool.acquire() as database, database.transaction():
            workflow_id = await database.fetchval(
                sql.INSERT_WORKFLOW, identity.workspace, new_id(), name, draft.definition.description
            )
            if workflow_id is None:
                taken = await database.fetchval(sql.ID, identity.workspace, name)
                raise Refused(
                    "workflow_exists",
                    f'there is a workflow "{name}" already: save a new version with PUT /api/v1/workflows/{name}',
                    workflow_id=taken,
                )
            await self._insert_version(database, workflow_id, 1, draft, identity)
        return await self._saved(identity, workflow_id, 1)

    async def save(self, identity: Identity, ref: str, draft: Draft) -> tuple[Workflow, bool]:
        """Save a new version, or nothing when the latest one is the same. An archived workflow is brought back.

        Args:
            identity: who saves.
            ref: the workflow's id or name.
            draft: what to save.

        Returns:
            The workflow, and whether this made a version.

        Raises:
            Refused: `workflow_not_found`, `workflow_name_mismatch`.
        """
        await self._publish(draft)
        async with self._pool.acquire() as database, database.transaction():
            workflow_id = await database.fetchval(sql.ID, identity.workspace, ref)
            if workflow_id is None:
                raise not_found(ref)
            # The lock makes concurrent saves queue up, so each sees the version before its own.
            row = await database.fetchrow(sql.LOCK, identity.workspace, workflow_id)
            assert row is not None
            if row["name"] != draft.definition.name:
                raise Refused(
                    "workflow_name_mismatch",
                    f'the definition is named "{draft.definition.name}", the workflow "{row["name"]}"',
                )
            version = int(row["latest_version"])
            changed = await database.fetchval(sql.HASH, workflow_id, version) != draft.content_hash
            if changed:
                version += 1
                await self._insert_version(database, workflow_id, version, draft, identity)
                await database.execute(sql.ADVANCE, workflow_id, version, draft.definition.description)
            elif row["archived_at"] is not None:
                await database.execute(sql.REVIVE, workflow_id)
        return await self._saved(identity, workflow_id, version), changed

    async def archive(self, identity: Identity, ref: str) -> None:
        """Archive a workflow: nothing starts it any more, and everything about it can still be read. Idempotent.

        Raises:
            Refused: `workflow_not_found`.
        """
        workflow_id = await self.id_of(identity.workspace, ref)
        await self._pool.execute(sql.ARCHIVE, identity.workspace, workflow_id)
        self._changed(identity.workspace)

    async def find(self, workspace: str, ref: str, version: int | None = None) -> Workflow | None:
        """Return a workflow by id or name, at a version or the latest one, with its definition."""
        row = await self._pool.fetchrow(sql.FIND, workspace, ref, version)
        return Workflow(**row) if row else None

    async def get(self, workspace: str, ref: str, version: int | None = None) -> Workflow:
        """Return what `find` finds.

        Raises:
            Refused: `workflow_not_found`, `workflow_version_not_found`.
        """
        workflow = await self.find(workspace, ref, version)
        if workflow is not None:
            return workflow
        await self.id_of(workspace, ref)
        raise Refused("workflow_version_not_found", f'workflow "{ref}" has no version {version}')

    async def id_of(self, workspace: str, ref: str) -> str:
        """Return the id of a workflow, archived ones included.

        Raises:
            Refused: `workflow_not_found`.
        """
        workflow_id: str | None = await self._pool.fetchval(sql.ID, workspace, ref)
        if workflow_id is None:
            raise not_found(ref)
        return workflow_id

    async def known(self, workspace: str, names: Collection[str]) -> dict[str, Known]:
        """Return what there is of these names, archived ones included."""
        rows = await self._pool.fetch(sql.KNOWN, workspace, list(names))
        return {row["name"]: Known(row["latest_version"], row["archived"]) for row in rows}

    async def names(self, workspace: str) -> list[str]:
        """Return the names of a workspace's workflows, for suggestions: those that changed last."""
        return [row["name"] for row in await self._pool.fetch(sql.NAMES, workspace, NAMES_MAX)]

    async def page(
        self,
        workspace: str,
        *,
        archived: bool,
        name: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
        skip: int,
    ) -> tuple[list[Workflow], int]:
        """Return workflows, newest first, and how many there are in all."""
        moment, workflow_id = before or (None, None)
        rows = await self._pool.fetch(sql.LIST, workspace, archived, name, moment, workflow_id, limit, skip)
        total: int = await self._pool.fetchval(sql.COUNT, workspace, archived, name)
        return [Workflow(**row) for row in rows], total

    async def versions(
        self, workspace: str, ref: str, before: int | None, limit: int, skip: int
    ) -> tuple[Sequence[Workflow], int]:
        """Return the versions of a workflow, newest first, and how many there are in all.

        Raises:
            Refused: `workflow_not_found`.
        """
        workflow = await self.get(workspace, ref)
        rows = await self._pool.fetch(sql.VERSIONS, workspace, workflow.id, before, limit, skip)
        return [Workflow(**row) for row in rows], workflow.latest_version

    async def definition_by_hash(self, content_hash: str) -> bytes | None:
        """Return the canonical bytes of a definition."""
        text: str | None = await self._pool.fetchval(sql.DEFINITION_BY_HASH, content_hash)
        return None if text is None else text.encode()

    async def _publish(self, draft: Draft) -> None:
        """Put the definition on the bus, before any version of it can be started."""
        await keep_definition(self._publisher, draft.content_hash, draft.canonical)

    @staticmethod
    async def _insert_version(database: Any, workflow_id: str, version: int, draft: Draft, identity: Identity) -> None:
        await database.execute(
            sql.INSERT_VERSION,
            workflow_id,
            version,
            draft.content_hash,
            draft.canonical.decode(),
            draft.source,
            draft.source_format,
            identity.subject,
        )

    async def _saved(self, identity: Identity, workflow_id: str, version: int) -> Workflow:
        self._changed(identity.workspace)
        return await self.get(identity.workspace, workflow_id, version)


def not_found(ref: str) -> Refused:
    """Return the refusal of an unknown workflow."""
    return Refused("workflow_not_found", f'there is no workflow "{ref}" in this workspace')
