"""Triggers in Postgres, and their schedules on the bus, saved together."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from millrace_api.adapters import trigger_sql as sql
from millrace_api.adapters.definitions import stored_definition
from millrace_api.adapters.trigger_schedules import Schedules
from millrace_api.adapters.workflow_store import WorkflowStore
from millrace_api.domain.trigger_reading import check_spec, field_mistake, invalid, spec_of
from millrace_api.domain.triggers import TRIGGERS_MAX, Kind, Tally, Trigger, TriggerSpec
from millrace_api.errors import CalendarInvalid, Refused
from millrace_api.identity import Identity
from millrace_shared import subjects
from millrace_shared.ids import new_id
from millrace_shared.postgres import Pool

TOKEN_BYTES = 32
_HINT_CHARS = 4
_TALLY = tuple(Tally.__dataclass_fields__)


class TriggerStore:
    """Saves, changes, removes and finds triggers.

    Args:
        pool: the database.
        schedules: the bus, which keeps the schedules of cron triggers.
        workflows: what triggers may start.
        now: Unix seconds.
    """

    def __init__(
        self, pool: Pool, schedules: Schedules, workflows: WorkflowStore, now: Callable[[], float] = time.time
    ) -> None:
        self._pool = pool
        self._schedules = schedules
        self._workflows = workflows
        self._now = now

    async def create(self, identity: Identity, fields: Mapping[str, Any]) -> tuple[Trigger, str | None]:
        """Save a new trigger; return it, and the token of a webhook, which is known only now.

        Raises:
            Refused: `trigger_invalid`, `trigger_exists`, `too_many_triggers`.
        """
        spec = await self._checked(identity, fields)
        token = secrets.token_urlsafe(TOKEN_BYTES) if spec.kind == "webhook" else None
        async with self._pool.acquire() as database, database.transaction():
            await self._check_count(database, identity.workspace)
            trigger_id = await database.fetchval(
                sql.INSERT,
                identity.workspace,
                new_id(),
                spec.name,
                spec.kind,
                spec.is_enabled,
                _kept(spec),
                _event_name(spec),
                spec.secret or None,
                None if token is None else token_hash(token),
                None if token is None else token[-_HINT_CHARS:],
                identity.subject,
            )
            if trigger_id is None:
                raise await self._exists(database, identity.workspace, spec.name)
            trigger = _trigger(await database.fetchrow(sql.FIND, identity.workspace, trigger_id))
            await self._bring_in_line(trigger)
        return trigger, token

    async def replace(self, identity: Identity, ref: str, fields: Mapping[str, Any], *, merge: bool) -> Trigger:
        """Change a trigger: to what `fields` say, or only where they say something (`merge`; None takes away).

        A secret stays unless another one is given: it cannot be read, so nobody can send it back.

        Raises:
            Refused: `trigger_not_found`, `trigger_invalid`, `trigger_exists`.
        """
        while True:
            before = await self.get(identity.workspace, ref)
            wanted = fields
            if merge:
                merged = {**msgspec.to_builtins(before.spec), **fields}
                wanted = {name: value for name, value in merged.items() if value is not None}
                if "secret" in fields and fields["secret"] is None:
                    wanted["secret"] = ""
            spec = await self._checked(identity, wanted)
            if spec.kind != before.kind:
                raise invalid([field_mistake("kind", f"a trigger stays what it is: {before.kind}", spec.kind)])
            try:
                trigger = await self._replace(before, spec)
            except (
                asyncpg.UniqueViolationError
            ):  # its new name was taken at this very moment: looked at again, it says so
                continue
            if trigger is not None:
                return trigger

    async def renew_token(self, identity: Identity, ref: str) -> tuple[Trigger, str]:
        """Give a webhook another token; the one before opens nothing any more.

        Raises:
            Refused: `trigger_not_found`, `trigger_invalid`: it is no webhook.
        """
        trigger = await self.get(identity.workspace, ref)
        if trigger.kind != "webhook":
            raise invalid([field_mistake("kind", "only webhooks have a token", trigger.kind)])
        token = secrets.token_urlsafe(TOKEN_BYTES)
        await self._pool.execute(sql.RENEW, trigger.id, token_hash(token), token[-_HINT_CHARS:])
        return await self.get(identity.workspace, trigger.id), token

    async def delete(self, identity: Identity, ref: str) -> None:
        """Remove a trigger and its schedule. What it started goes on.

        Raises:
            Refused: `trigger_not_found`.
        """
        async with self._pool.acquire() as database, database.transaction():
            row = await database.fetchrow(sql.LOCK, identity.workspace, ref)
            if row is None:
                raise not_found(ref)
            trigger = _trigger(row)
            await database.execute(sql.DELETE, trigger.id)
            await self._schedules.remove(subjects.cron(trigger.workspace, trigger.id))

    async def find(self, workspace: str, ref: str) -> Trigger | None:
        """Return a trigger by id or name."""
        return await self.find_in(self._pool, workspace, ref)

    async def find_in(self, database: Any, workspace: str, ref: str) -> Trigger | None:
        """Return what `find` finds, within a transaction."""
        row = await database.fetchrow(sql.FIND, workspace, ref)
        return None if row is None else _trigger(row)

    async def get(self, workspace: str, ref: str) -> Trigger:
        """Return what `find` finds.

        Raises:
            Refused: `trigger_not_found`.
        """
        trigger = await self.find(workspace, ref)
        if trigger is None:
            raise not_found(ref)
        return trigger

    async def page(
        self,
        workspace: str,
        *,
        kind: Kind | None,
        name: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
        skip: int,
    ) -> tuple[list[Trigger], int]:
        """Return triggers, newest first, and how many there are in all."""
        moment, trigger_id = before or (None, None)
        rows = await self._pool.fetch(sql.LIST, workspace, kind, name, moment, trigger_id, limit, skip)
        total: int = await self._pool.fetchval(sql.COUNT, workspace, kind, name)
        return [_trigger(row) for row in rows], total

    async def of_event(self, workspace: str, name: str) -> list[Trigger]:
        """Return the enabled triggers that take the events of a name."""
        return [_trigger(row) for row in await self._pool.fetch(sql.OF_EVENT, workspace, name)]

    async def of_token(self, token: str) -> Trigger | None:
        """Return the enabled webhook that a token belongs to."""
        row = await self._pool.fetchrow(sql.OF_TOKEN, token_hash(token))
        return None if row is None else _trigger(row)

    async def of_alerts(self, workspace: str) -> list[Trigger]:
        """Return the enabled triggers that take alerts."""
        return [_trigger(row) for row in await self._pool.fetch(sql.OF_ALERTS, workspace)]

    async def scheduled(self, database: Any) -> list[Trigger]:
        """Return the enabled cron triggers of all workspaces."""
        return [_trigger(row) for row in await database.fetch(sql.SCHEDULED)]

    async def _replace(self, before: Trigger, spec: TriggerSpec) -> Trigger | None:
        """Save a change of `before`; None when somebody else has changed it meanwhile."""
        changed = (spec.cron, spec.timezone) != (before.spec.cron, before.spec.timezone)
        begins_anew = changed or (spec.is_enabled and not before.spec.is_enabled)
        secret = before.secret if spec.secret is None else spec.secret or None
        async with self._pool.acquire() as database, database.transaction():
            row = await database.fetchrow(sql.LOCK, before.workspace, before.id)
            if row is None or row["updated_at"] != before.updated_at:
                return None
            if await database.fetchval(sql.TAKEN, before.workspace, spec.name, before.id) is not None:
                raise await self._exists(database, before.workspace, spec.name)
            kept, event_name = _kept(spec), _event_name(spec)
            columns = (spec.name, spec.is_enabled, kept, event_name, secret, begins_anew)
            await database.execute(sql.UPDATE, before.id, *columns)
            trigger = _trigger(await database.fetchrow(sql.FIND, before.workspace, before.id))
            await self._bring_in_line(trigger)
        return trigger

    async def _checked(self, identity: Identity, fields: Mapping[str, Any]) -> TriggerSpec:
        spec = spec_of(fields)
        workflow = await self._workflows.find(identity.workspace, spec.workflow, spec.version)
        definition = None
        if workflow is not None and workflow.definition is not None:
            definition = stored_definition(workflow.definition, workflow.content_hash)
        check_spec(spec, definition, self._now())
        return spec

    async def _bring_in_line(self, trigger: Trigger) -> None:
        if trigger.kind != "cron":
            return
        try:
            await self._schedules.bring_in_line(trigger)
        except CalendarInvalid as error:
            raise invalid([field_mistake(error.field, error.reason, getattr(trigger.spec, error.field))]) from None

    @staticmethod
    async def _check_count(database: Any, workspace: str) -> None:
        count = await database.fetchval(sql.COUNT, workspace, None, None)
        if count >= TRIGGERS_MAX:
            raise Refused("too_many_triggers", f"this workspace has {count} triggers, and {TRIGGERS_MAX} is the limit")

    @staticmethod
    async def _exists(database: Any, workspace: str, name: str) -> Refused:
        row = await database.fetchrow(sql.FIND, workspace, name)
        return Refused(
            "trigger_exists",
            f'there is a trigger "{name}" already: change it with PUT /api/v1/triggers/{name}',
            trigger_id=None if row is None else row["id"],
        )


def token_hash(token: str) -> str:
    """Return what a token is found by. It holds 256 bits of chance, so a plain hash cannot be turned round."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def not_found(ref: str) -> Refused:
    """Return the refusal of an unknown trigger."""
    return Refused("trigger_not_found", f'there is no trigger "{ref}" in this workspace')


def _event_name(spec: TriggerSpec) -> str | None:
    return spec.event_name if spec.kind == "event" else None


def _kept(spec: TriggerSpec) -> dict[str, Any]:
    kept: dict[str, Any] = msgspec.to_builtins(spec)
    kept.pop("secret", None)
    return kept


def _trigger(row: Any) -> Trigger:
    counted = {name: row[name] for name in _TALLY if row[name] is not None}
    return Trigger(
        id=row["id"],
        workspace=row["workspace"],
        spec=msgspec.convert(row["spec"], TriggerSpec),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        created_by=row["created_by"],
        scheduled_from=row["scheduled_from"],
        secret=row["secret"],
        token_hint=row["token_hint"],
        tally=Tally(**counted),
    )
