"""Which executions a list shows, in which order, and where a page begins: as SQL conditions with bound values.

Pages follow a cursor by key (`created_at`, then `id`, which settles ties), so a page deep in the list costs what the
first one does, and executions that are started meanwhile shift nothing. `skip` is for people who page by number.
"""

from __future__ import annotations

import binascii
import contextlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from millrace_api.domain.launch import LABELS_MAX
from millrace_api.errors import Refused

LIMIT_DEFAULT = 10
LIMIT_MAX = 100
SKIP_MAX = 100_000

Status = Literal["pending", "running", "paused", "completed", "failed", "cancelled", "timeout"]
STATUSES: tuple[Status, ...] = ("pending", "running", "paused", "completed", "failed", "cancelled", "timeout")
Sort = Literal["-created_at", "created_at"]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Scope = Literal["top", "workflows", "all"]
"""Executions that nobody's step waits for; those of sub-workflows too; and those of groups and plans as well."""


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """What a list of executions is narrowed to.

    `after` is the key of the last row of the page before. With `parent_id` these are the executions that perform steps
    of that one; without, `scope` says whether children are listed.
    """

    workflow_id: str | None = None
    statuses: tuple[Status, ...] = ()
    labels: tuple[tuple[str, str | None], ...] = ()
    execution_name: str | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    parent_id: str | None = None
    scope: Scope = "top"
    sort: Sort = "-created_at"
    after: tuple[datetime, str] | None = None


def where(workspace: str, chosen: ExecutionFilter, *, paged: bool = True) -> tuple[str, list[Any]]:
    """Return the condition and its values; without the place in the list unless `paged`."""
    values: list[Any] = [workspace]
    conditions = ["workspace = $1"]

    def add(condition: str, *bound: Any) -> None:
        places = range(len(values) + 1, len(values) + len(bound) + 1)
        values.extend(bound)
        conditions.append(condition.format(*(f"${place}" for place in places)))

    if chosen.workflow_id is not None:
        add("workflow_id = {}", chosen.workflow_id)
    if chosen.statuses:
        add("status = ANY({}::text[])", list(chosen.statuses))
    for name, value in chosen.labels:
        if value is None:
            add("labels ? {}", name)
        else:
            add("labels @> {}::jsonb", {name: value})
    if chosen.execution_name is not None:
        add("execution_name = {}", chosen.execution_name)
    if chosen.started_after is not None:
        add("started_at >= {}", chosen.started_after)
    if chosen.started_before is not None:
        add("started_at < {}", chosen.started_before)
    if chosen.parent_id is not None:
        add("parent_id = {}", chosen.parent_id)
    elif chosen.scope != "all":
        add("parent_id IS NULL" if chosen.scope == "top" else "NOT inline")
    if paged and chosen.after is not None:
        add("(created_at, id) " + ("<" if chosen.sort == "-created_at" else ">") + " ({}, {})", *chosen.after)
    return " AND ".join(conditions), values


def order_by(chosen: ExecutionFilter) -> str:
    """Return the ORDER BY list."""
    return "created_at DESC, id DESC" if chosen.sort == "-created_at" else "created_at, id"


def cursor_of(moment: datetime, row_id: str) -> str:
    """Return the opaque place after the row with this key."""
    return urlsafe_b64encode(msgspec.json.encode([moment.astimezone(UTC).isoformat(), row_id])).decode().rstrip("=")


def read_cursor(text: str | None) -> tuple[datetime, str] | None:
    """Return the key that `cursor_of` was given.

    Raises:
        Refused: `request_invalid`: it is not one of our cursors.
    """
    if text is None:
        return None
    try:
        document = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        moment, row_id = msgspec.json.decode(document, type=tuple[Moment, str])
        key = (moment.astimezone(UTC), row_id)
    except (binascii.Error, ValueError, OverflowError, msgspec.DecodeError):
        raise _refused("cursor", "use `next_cursor` of the page before, as it is", text) from None
    if "\x00" in row_id:
        raise _refused("cursor", "use `next_cursor` of the page before, as it is", text)
    return key


def in_utc(moment: datetime | None, loc: tuple[str | int, ...]) -> datetime | None:
    """Return a time, given at `loc`, in UTC; one without an offset is in UTC already.

    Raises:
        Refused: `request_invalid`: in UTC it lies outside the years that databases count.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        message = "a time in the years 1 to 9999 is needed"
        raise _refused(str(loc[-1]), message, moment.isoformat(), loc) from None


def sequence_cursor(sequence: int) -> str:
    """Return the opaque place after position `sequence` of an ordered list."""
    return urlsafe_b64encode(str(sequence).encode()).decode().rstrip("=")


def read_sequence_cursor(text: str | None) -> int | None:
    """Return the position that `sequence_cursor` was given.

    Raises:
        Refused: `request_invalid`.
    """
    if text is None:
        return None
    with contextlib.suppress(binascii.Error, ValueError):
        number = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        if number.isascii() and number.isdigit() and len(number) < 19:  # noqa: PLR2004  below 2**63
            return int(number)
    raise _refused("cursor", "use `next_cursor` of the page before, as it is", text)


def read_statuses(given: list[str] | None, loc: tuple[str | int, ...] = ("query", "status")) -> tuple[Status, ...]:
    """Read `status=failed&status=timeout`, or `status=failed,timeout`; they were given at `loc`.

    Raises:
        Refused: `request_invalid`, naming the statuses that exist.
    """
    found: list[Status] = []
    for text in (part.strip() for one in given or () for part in one.split(",")):
        status = next((status for status in STATUSES if status == text), None)
        if status is None:
            raise _refused(str(loc[-1]), f"a status is one of {', '.join(STATUSES)}", text, loc)
        found.append(status)
    return tuple(found)


def read_labels(given: list[str] | None) -> tuple[tuple[str, str | None], ...]:
    """Read `label=team:search` (or `team=search`), or `label=team` for any value.

    Raises:
        Refused: `request_invalid`: more than an execution can have.
    """
    if len(given or ()) > LABELS_MAX:
        raise _refused("label", f"at most {LABELS_MAX} are needed: no execution has more", str(len(given or ())))
    found: list[tuple[str, str | None]] = []
    for text in given or ():
        separators = [position for position in (text.find(":"), text.find("=")) if position > 0]
        if not separators:
            found.append((text, None))
        else:
            found.append((text[: min(separators)], text[min(separators) + 1 :]))
    return tuple(found)


def _refused(field: str, message: str, given: str, loc: tuple[str | int, ...] = ()) -> Refused:
    return Refused(
        "request_invalid",
        f"{field}: {message}",
        [{"loc": [*(loc or ("query", field))], "msg": message, "type": "value_invalid", "input": given}],
    )
