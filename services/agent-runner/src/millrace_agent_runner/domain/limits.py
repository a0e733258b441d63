"""Which limits per minute hold for a call to a model, and what of each it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from millrace_agent_runner.domain.buckets import Bucket

ANY = "*"
"""In a limit: all workspaces, or all models of the provider, together."""
PER_MINUTE_MAX = 10**12
LIMITS_MAX = 1_000
_WORD = re.compile(r"[!-~]{1,200}")

Kind = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What `workspace` may ask of `provider`'s `model` in any minute. At least one of the two bounds is set."""

    provider: str
    model: str = ANY
    workspace: str = ANY
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one limit for."""
        return (self.workspace, self.provider, self.model)

    @property
    def name(self) -> str:
        """The limit as people are told of it."""
        model = self.provider if self.model == ANY else f"{self.provider}:{self.model}"
        return model if self.workspace == ANY else f"{model} in workspace {self.workspace}"

    def holds_for(self, workspace: str, provider: str, model: str) -> bool:
        """Whether a call is counted under this limit."""
        return self.provider == provider and self.model in {ANY, model} and self.workspace in {ANY, workspace}


class Demand(NamedTuple):
    """So many `units` of one `kind` under a limit; `bucket` names what they are taken from."""

    bucket: str
    limit: Limit
    kind: Kind
    per_minute: int
    units: int

    @property
    def text(self) -> str:
        """What is waited for, in words."""
        if self.kind == "requests":
            return f"one of {self.per_minute:,} requests/min of {self.limit.name}"
        return f"{self.units:,} of {self.per_minute:,} tokens/min of {self.limit.name}"


@dataclass(frozen=True, slots=True)
class Grant:
    """Room that was taken for one call.

    Attributes:
        demands: what was taken.
        taken_at: when, by the database's clock.
    """

    demands: tuple[Demand, ...] = ()
    taken_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room yet.

    Attributes:
        wait_s: how long until the call's turn, as far as that is known.
        return_s: when to ask again, if nobody waits for it here.
        reason: what is waited for, in words.
    """

    wait_s: float
    return_s: float
    reason: str


class Room(NamedTuple):
    """When there is room for a call (Unix seconds), which demand waits longest, and whether a pause is why."""

    at: float
    narrowest: Demand
    is_paused: bool


def demands_of(limits: Iterable[Limit], workspace: str, provider: str, model: str, tokens: int) -> list[Demand]:
    """Return what a call of `tokens` asks for under each limit that holds for it; of none more than all of it."""
    found: list[Demand] = []
    for limit in limits:
        if not limit.holds_for(workspace, provider, model):
            continue
        bounds: tuple[tuple[Kind, int | None, int], ...] = (
            ("requests", limit.requests_per_minute, 1),
            ("tokens", limit.tokens_per_minute, tokens),
        )
        for kind, per_minute, units in bounds:
            if per_minute is not None:
                # Only the last part may hold spaces, so two limits never share a name.
                bucket = f"{kind} {limit.workspace} {limit.provider} {limit.model}"
                found.append(Demand(bucket, limit, kind, per_minute, min(units, per_minute)))
    return found


def room_for(demands: Iterable[tuple[Demand, Bucket, int]], blocked_until: float, now: float) -> Room:
    """Return when a call finds room in all its buckets.

    Args:
        demands: at least one, each with its bucket, and the units of those that stand before it in that bucket's line.
        blocked_until: before this time nobody may call.
        now: Unix seconds.
    """
    rooms = [(bucket.room_at(demand.units, ahead, now), demand) for demand, bucket, ahead in demands]
    at, narrowest = max(rooms, key=lambda room: room[0])
    return Room(max(at, blocked_until), narrowest, blocked_until > at)


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: str
    model: str = ANY
    workspace: str = ANY
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def read_limits(text: str) -> tuple[Limit, ...]:
    """Read limits from a JSON array of objects with the fields of `Limit`; empty text has none.

    Raises:
        ValueError: it is not that, or a limit limits nothing.
    """
    if not text.strip():
        return ()
    try:
        given = msgspec.json.decode(text, type=list[_Given])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a JSON array of limits: {error}") from error
    if len(given) > LIMITS_MAX:
        raise ValueError(f"{len(given)} limits; at most {LIMITS_MAX} are possible")
    limits = tuple(Limit(**msgspec.structs.asdict(one)) for one in given)
    for limit in limits:
        bounds = (limit.requests_per_minute, limit.tokens_per_minute)
        if bounds == (None, None):
            raise ValueError(f"the limit of {limit.name} has neither requests_per_minute nor tokens_per_minute")
        if any(bound is not None and not 1 <= bound <= PER_MINUTE_MAX for bound in bounds):
            raise ValueError(f"the limit of {limit.name} must lie between 1 and {PER_MINUTE_MAX:,} per minute")
        if not all(_WORD.fullmatch(word) for word in limit.key):
            raise ValueError(f"the names of the limit of {limit.name!r} must be without spaces, and not empty")
    if len({limit.key for limit in limits}) < len(limits):
        raise ValueError("two limits have the same workspace, provider and model")
    return limits


def merged(defaults: Iterable[Limit], kept: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return all limits; one that is kept in the database goes before a default with the same key."""
    return tuple(({one.key: one for one in defaults} | {one.key: one for one in kept}).values())
