"""The bodies of requests that steer executions, or start one from another. Null and absent mean the same."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec

from millrace_api.domain.documents import decode
from millrace_api.domain.filters import ExecutionFilter, Status, in_utc, read_statuses
from millrace_api.domain.launch import LABELS_MAX, Breakpoints, ExecutionName, LabelName, LabelValue, Ref, Version
from millrace_api.errors import Refused

STEERING_BYTES_MAX = 1024 * 1024
"""A request that steers: a signal's data, a form, or a step's edited input included."""
BULK_MAX = 1_000
"""Executions of one bulk request."""
BULK_DEFAULT = 100

_Reason = Annotated[str, msgspec.Meta(max_length=1_000)]
_Note = Annotated[str, msgspec.Meta(max_length=4_000)]
_SignalId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Labels = Annotated[dict[LabelName, LabelValue | None], msgspec.Meta(max_length=LABELS_MAX)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Item = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/cancel`."""

    reason: _Reason | None = None


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/pause`."""

    reason: _Reason | None = None


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/resume`: nothing to say."""


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/signal`. The same `id` twice is one signal."""

    name: _Word
    data: Any = None
    id: _SignalId | None = None


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/steps/{step_id}/approve` or `reject`; `data` is what the form asks for."""

    note: _Note | None = None
    data: Any = None
    item: _Item | None = None


class Continue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/steps/{step_id}/continue`. With an `input`, the step gets that in place of its own."""

    item: _Item | None = None
    input: Any = None


class Again(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/retry` or `replay`."""

    execution_name: ExecutionName | None = None
    breakpoints: Breakpoints | None = None


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/{id}/fork`: what came before `from_step` is taken over, and the rest runs anew."""

    from_step: _Word
    input: dict[str, Any] | None = None
    version: Version | None = None
    execution_name: ExecutionName | None = None
    breakpoints: Breakpoints | None = None


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /executions/bulk/{cancel,retry}`: which executions, as in the list of executions."""

    workflow: Ref | None = None
    statuses: list[str] | None = None
    labels: _Labels | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=BULK_MAX)] | None = None
    dry_run: bool | None = None
    reason: _Reason | None = None


Body = TypeVar("Body", bound=msgspec.Struct)


def read(kind: type[Body], body: bytes) -> Body:
    """Decode a body; an empty one is an empty object.

    Raises:
        Refused: `request_invalid`, naming the field.
    """
    decoder: msgspec.json.Decoder[Body] = _decoder(kind)
    return decode(decoder, body or b"{}")


@cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def bulk_filter(bulk: Bulk, workflow_id: str | None, statuses: tuple[Status, ...]) -> ExecutionFilter:
    """Return which executions a bulk request is about, newest first; `statuses` unless it names some.

    Raises:
        Refused: `request_invalid`: a status that does not exist, or nothing that narrows the choice.
    """
    given = (bulk.workflow, bulk.statuses, bulk.labels, bulk.started_after, bulk.started_before)
    if not any(given):
        raise Refused(
            "request_invalid",
            "say which executions: workflow, statuses, labels, started_after or started_before",
            [{"loc": ["body"], "msg": "at least one criterion is needed", "type": "missing"}],
        )
    return ExecutionFilter(
        workflow_id=workflow_id,
        statuses=read_statuses(bulk.statuses, ("body", "statuses")) or statuses,
        labels=tuple((bulk.labels or {}).items()),
        started_after=in_utc(bulk.started_after, ("body", "started_after")),
        started_before=in_utc(bulk.started_before, ("body", "started_before")),
    )
