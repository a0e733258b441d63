"""Saved agents in Postgres: versions that never change, saved one after the other however many save at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from millrace_api.adapters import agent_sql as sql
from millrace_api.domain.agents import AgentDraft, SavedAgent
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_shared.definition.saved_agents import split_reference
from millrace_shared.ids import new_id
from millrace_shared.postgres import Pool

NAMES_MAX = 10_000
"""Names that are compared with one that does not exist."""


class AgentStore:
    """Saves, archives and reads agents.

    Args:
        pool: the database.
        changed: called with the workspace after each save, once it is committed.
    """

    def __init__(self, pool: Pool, changed: Callable[[str], None]) -> None:
        self._pool = pool
        self._changed = changed

    async def create(self, identity: Identity, draft: AgentDraft) -> SavedAgent:
        """Save the first version of a new agent.

        Raises:
            Refused: `agent_exists`.
        """
        async with self._pool.acquire() as database, database.transaction():
            agent_id = await database.fetchval(
                sql.INSERT_AGENT, identity.workspace, new_id(), draft.name, draft.agent.description
            )
            if agent_id is None:
                taken = await database.fetchval(sql.ID, identity.workspace, draft.name)
                remedy = f"save a new version with PUT /api/v1/agents/{draft.name}"
                raise Refused("agent_exists", f'there is an agent "{draft.name}" already: {remedy}', agent_id=taken)
            await self._insert_version(database, agent_id, 1, draft, identity)
        return await self._saved(identity, agent_id, 1)

    async def save(self, identity: Identity, ref: str, draft: AgentDraft) -> tuple[SavedAgent, bool]:
        """Save a new version, or nothing when the latest one is the same. An archived agent is brought back.

        Returns:
            The agent, and whether this made a version.

        Raises:
            Refused: `agent_not_found`, `agent_name_mismatch`.
        """
        async with self._pool.acquire() as database, database.transaction():
            agent_id = await database.fetchval(sql.ID, identity.workspace, ref)
            if agent_id is None:
                raise not_found(ref)
            # The lock makes concurrent saves queue up, so each sees the version before its own.
            row = await database.fetchrow(sql.LOCK, identity.workspace, agent_id)
            assert row is not None
            if row["name"] != draft.name:
                raise Refused("agent_name_mismatch", f'the document is named "{draft.name}", the agent "{row["name"]}"')
            version = int(row["latest_version"])
            changed = await database.fetchval(sql.HASH, agent_id, version) != draft.content_hash
            if changed:
                version += 1
                await self._insert_version(database, agent_id, version, draft, identity)
                await database.execute(sql.ADVANCE, agent_id, version, draft.agent.description)
            elif row["archived_at"] is not None:
                await database.execute(sql.REVIVE, agent_id)
        return await self._saved(identity, agent_id, version), changed

    async def archive(self, identity: Identity, ref: str) -> None:
        """Archive an agent: nothing that uses it starts any more, and everything can still be read. Idempotent.

        Raises:
            Refused: `agent_not_found`.
        """
        agent_id = await self.id_of(identity.workspace, ref)
        await self._pool.execute(sql.ARCHIVE, identity.workspace, agent_id)
        self._changed(identity.workspace)

    async def get(self, workspace: str, ref: str, version: int | None = None) -> SavedAgent:
        """Return an agent by id or name, at a version or the latest one, with its definition.

        Raises:
            Refused: `agent_not_found`, `agent_version_not_found`.
        """
        row = await self._pool.fetchrow(sql.FIND, workspace, ref, version)
        if row is not None:
            return SavedAgent(**row)
        await self.id_of(workspace, ref)
        raise Refused("agent_version_not_found", f'agent "{ref}" has no version {version}')

    async def id_of(self, workspace: str, ref: str) -> str:
        """Return the id of an agent, archived ones included.

        Raises:
            Refused: `agent_not_found`.
        """
        agent_id: str | None = await self._pool.fetchval(sql.ID, workspace, ref)
        if agent_id is None:
            raise not_found(ref)
        return agent_id

    async def known(self, workspace: str, references: Collection[str]) -> dict[str, SavedAgent]:
        """Return what there is of these references (`name` or `name@version`), archived ones included."""
        wanted = [(reference, *split_reference(reference)) for reference in sorted(set(references))]
        arrays = [list(array) for array in zip(*wanted, strict=True)] if wanted else [[], [], []]
        rows = await self._pool.fetch(sql.WANTED, workspace, *arrays)
        found = {}
        for row in rows:
            columns = dict(row)
            reference = columns.pop("reference")
            found[reference] = SavedAgent(**columns)
        return found

    async def names(self, workspace: str) -> list[str]:
        """Return the names of a workspace's agents, for suggestions: those that changed last."""
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
    ) -> tuple[list[SavedAgent], int]:
        """Return agents, newest first, and how many there are in all."""
        moment, agent_id = before or (None, None)
        rows = await self._pool.fetch(sql.LIST, workspace, archived, name, moment, agent_id, limit, skip)
        total: int = await self._pool.fetchval(sql.COUNT, workspace, archived, name)
        return [SavedAgent(**row) for row in rows], total

    async def versions(
        self, workspace: str, ref: str, before: int | None, limit: int, skip: int
    ) -> tuple[Sequence[SavedAgent], int]:
        """Return the versions of an agent, newest first, and how many there are in all.

        Raises:
            Refused: `agent_not_found`.
        """
        agent = await self.get(workspace, ref)
        rows = await self._pool.fetch(sql.VERSIONS, workspace, agent.id, before, limit, skip)
        return [SavedAgent(**row) for row in rows], agent.latest_version

    @staticmethod
    async def _insert_version(
        database: Any, agent_id: str, version: int, draft: AgentDraft, identity: Identity
    ) -> None:
        await database.execute(
            sql.INSERT_VERSION,
            agent_id,
            version,
            draft.content_hash,
            draft.canonical.decode(),
            draft.source,
            draft.source_format,
            identity.subject,
        )

    async def _saved(self, identity: Identity, agent_id: str, version: int) -> SavedAgent:
        self._changed(identity.workspace)
        return await self.get(identity.workspace, agent_id, version)


def not_found(ref: str) -> Refused:
    """Return the refusal of an unknown agent."""
    return Refused("agent_not_found", f'there is no agent "{ref}" in this workspace')
