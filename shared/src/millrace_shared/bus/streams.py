"""Every stream and durable consumer, in one table, and the code that brings a server in line with it.

Why each stream is what it is: DESIGN in docs/architecture.md, "Streams". Sizes are bounds against runaway use, not
capacity plans. Streams are created or updated at the start of every service; an update never loses messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused, StreamMissing
from millrace_shared.ids import PARTITION_COUNT
from millrace_shared.lanes import LANES, Lane
from millrace_shared.messages import WORK_KINDS, WorkKind

NANOSECONDS = 1_000_000_000
DAY_S = 86_400
MESSAGE_BYTES_MAX = 7 * 1024 * 1024
EVENT_BYTES_MAX = 1024 * 1024
"""An event of another service, with its headers: who publishes a larger one is refused, rather than buried later."""
PIN_TTL_S = 3.0
"""A pinned orchestrator that has not asked for this long loses its partition to another."""
INBOX_GROUP = "holder"
INBOX_BACKOFF_S = (2.5, 30.0, 120.0, 600.0)
"""When an unacknowledged inbox message comes again. An execution's start message stays unacknowledged until it ends, so
this is also how often a running execution is looked at again although nothing happened (ADR 0004). The first is longer
than a request of a holder lives: what a stopped holder did not get to is not delivered to it once more."""
LEASE_DELIVERIES_MAX = 5
"""A start message that was delivered this often (it is about 12 minutes old) is replaced by a new one at the end of the
stream, so that what is active always lies in the stream's recent part, however long it runs."""
WORK_ACK_WAIT_S = 4.0
"""A runner that has not acknowledged, or reported progress, for this long loses the attempt to another."""
WORK_DELIVERIES_MAX = 5
"""A work message that is delivered this often seems to kill its runners: the last one moves it to DEAD. The server
delivers without end, since a delivery to a runner that stands still must not be the last."""
CACHE_BYTES_MAX = 1024 * 1024 * 1024
"""What the result cache may take on disk, of all workspaces together. The oldest results make room for new ones."""


@dataclass(frozen=True)
class Stream:
    """One stream. `extra` holds JetStream options by their API names."""

    name: str
    subjects: tuple[str, ...]
    retention: str = "limits"
    max_age_s: float = 0
    duplicate_window_s: float = 120
    extra: dict[str, Any] = field(default_factory=dict)

    def config(self, replicas: int) -> dict[str, Any]:
        """Return the configuration as the JetStream API takes it."""
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "retention": self.retention,
            "storage": "file",
            "num_replicas": replicas,
            "max_age": int(self.max_age_s * NANOSECONDS),
            "max_msg_size": MESSAGE_BYTES_MAX,
            "duplicate_window": int(self.duplicate_window_s * NANOSECONDS),
            "discard": "old",
            "allow_direct": True,
            **self.extra,
        }


_KEPT = {"deny_delete": True, "deny_purge": True}
"""For the truth: nobody removes single messages, or all of them."""

STREAMS: tuple[Stream, ...] = (
    Stream("DEFINITIONS", ("def.*",), extra=_KEPT),
    Stream("REQUESTS", ("req.*.*",), extra={"allow_atomic": True, **_KEPT}),
    Stream(
        "EVENTS",
        ("ev.*.*",),
        extra={
            "allow_atomic": True,
            "allow_rollup_hdrs": False,
            # No single message can be taken out of a log. A whole log can, by its exact subject, once its execution
            # ended long ago (`retention.py` of the orchestrator); who may publish to the API can do that.
            "deny_delete": True,
            "republish": {"src": "ev.*.*", "dest": "live.{{wildcard(1)}}.{{wildcard(2)}}"},
        },
    ),
    Stream(
        "SNAPSHOTS",
        ("snap.*.*",),
        extra={"max_msgs_per_subject": 1, "persist_mode": "async"},  # made again from EVENTS when it is lost
    ),
    Stream(
        "TIMERS",
        ("timer.set.*.*.*", "timer.fire.*.*.*", "timer.cron.*.*", "timer.tick.*.*"),
        extra={
            "allow_msg_schedules": True,
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "allow_atomic": True,  # what falls asleep in one tick sets its timers with one fsync
        },
    ),
    Stream(
        "INBOX",
        tuple(f"in.{partition}.>" for partition in range(PARTITION_COUNT)),
        # Not a work queue: removing each message as it is acknowledged costs an fsync, four to every short execution.
        # Not limited by age either: a stack that was off for a month must find what it has accepted. The orchestrators
        # remove what lies before everybody's acknowledgement floor, in one go every few minutes.
        extra={
            "allow_atomic": True,
            "sources": [
                {
                    "name": "TIMERS",
                    "subject_transforms": [{"src": "timer.fire.*.*.*", "dest": "in.{{wildcard(1)}}.{{wildcard(2)}}"}],
                }
            ],
        },
    ),
    Stream(
        "WORK",
        ("work.*.*.*.*.*",),
        retention="workqueue",
        extra={
            "persist_mode": "async",  # rebuilt from EVENTS by whoever holds the execution
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
        },
    ),
    Stream(
        "CACHE",
        ("cache.*.*",),
        extra={
            "persist_mode": "async",  # what is lost is done again
            "max_msgs_per_subject": 1,
            "max_bytes": CACHE_BYTES_MAX,
            "allow_msg_ttl": True,
        },
    ),
    Stream(
        "GATES",
        ("gate.*.*.state", "gate.*.*.ticket.*"),
        # Documents and tickets of flow control: the last message of a subject is the truth, and its sequence the fence.
        extra={"allow_atomic": True, "allow_msg_ttl": True, "max_msgs_per_subject": 1},
    ),
    Stream(
        "JOURNAL",
        ("jrn.*.*.>",),
        max_age_s=90 * DAY_S,  # longer than a question to people and a pause after it may last
        # What was paid for: synced before it is used. A subject's last sequence is the fence between two runners.
        extra={"allow_atomic": True},
    ),
    Stream("TRIGGERS", ("trigger.*.*",), max_age_s=7 * DAY_S, extra={"max_msg_size": EVENT_BYTES_MAX}),
    Stream("TELEMETRY", ("tel.*.*.>",), max_age_s=7 * DAY_S, extra={"persist_mode": "async"}),
    Stream("DEAD", ("dead.>",), max_age_s=30 * DAY_S),
)


def inbox_consumer(partition: int) -> dict[str, Any]:
    """The durable that delivers one partition's inbox to the one orchestrator that is pinned to it."""
    return {
        "durable_name": f"inbox-{partition}",
        "ack_policy": "explicit",
        "filter_subject": f"in.{partition}.>",
        "backoff": [int(seconds * NANOSECONDS) for seconds in INBOX_BACKOFF_S],
        "max_deliver": -1,
        "max_ack_pending": -1,
        "max_waiting": 128,
        "priority_groups": [INBOX_GROUP],
        "priority_policy": "pinned_client",
        "priority_timeout": int(PIN_TTL_S * NANOSECONDS),
    }


def work_consumer_name(kind: WorkKind, lane: Lane) -> str:
    """The durable that delivers one kind of work in one lane to any runner."""
    return f"work-{kind}-{lane}"


def work_consumer(kind: WorkKind, lane: Lane) -> dict[str, Any]:
    """The configuration of `work_consumer_name`."""
    return {
        "durable_name": work_consumer_name(kind, lane),
        "ack_policy": "explicit",
        "filter_subject": f"work.{kind}.{lane}.>",
        "ack_wait": int(WORK_ACK_WAIT_S * NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": -1,
        "max_waiting": 512,
    }


async def ensure_streams(connection: Connection, replicas: int = 1) -> None:
    """Create the streams and the durable consumers, or bring those that exist in line with the table.

    Raises:
        BusRefused: the server does not accept the table (an older server, or not enough nodes for `replicas`).
        BusUnavailable: the server did not answer.
    """
    for stream in STREAMS:
        await _ensure(connection, stream.name, stream.config(replicas))
    for partition in range(PARTITION_COUNT):
        await ensure_consumer(connection, "INBOX", inbox_consumer(partition))
    for kind in WORK_KINDS:
        for lane in LANES:
            await ensure_consumer(connection, "WORK", work_consumer(kind, lane))


async def ensure_consumer(connection: Connection, stream: str, config: dict[str, Any]) -> None:
    """Create a durable consumer, or update it to `config`."""
    await connection.jetstream_api(
        f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}",
        {"stream_name": stream, "config": config},
    )


async def _ensure(connection: Connection, name: str, config: dict[str, Any]) -> None:
    try:
        existing = (await connection.jetstream_api(f"STREAM.INFO.{name}"))["config"]
    except StreamMissing:
        try:
            await connection.jetstream_api(f"STREAM.CREATE.{name}", config)
        except BusRefused as error:
            if "already in use" not in str(error):  # another service created it at the same moment
                raise
    else:
        if existing.get("deny_purge"):  # the server never takes that back
            config = {**config, "deny_purge": True}
        await connection.jetstream_api(f"STREAM.UPDATE.{name}", config)
