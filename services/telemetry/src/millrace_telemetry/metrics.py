"""The metrics of the projection. `stream` is EVENTS or TELEMETRY.

| metric | type | labels | meaning |
|---|---|---|---|
| `millrace_projection_messages_total` | counter | stream | messages projected, and committed |
| `millrace_projection_events_total` | counter | | events in those messages of EVENTS |
| `millrace_projection_batch_messages` | histogram | stream | messages in one transaction |
| `millrace_projection_transaction_seconds` | histogram | stream | time of one transaction, commit included |
| `millrace_projection_lag_messages` | gauge | stream | messages that the stream holds and the tables do not show yet |
| `millrace_projection_sequence` | gauge | stream | stream sequence up to which is projected |
| `millrace_projection_missing_total` | counter | stream | messages that the stream held no more: expired, or lost |
| `millrace_projection_unfolded_total` | counter | stream | messages that came out of compacted logs, thus not missing |
| `millrace_projection_dead_total` | counter | stream | messages that could not be projected: they are in DEAD |
| `millrace_projection_fence_lost_total` | counter | stream | batches refused because another process had written |
| `millrace_projection_leading` | gauge | stream | 1 while this process is the one that writes |
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_MESSAGES = Counter("millrace_projection_messages_total", "Messages projected.", ["stream"])
_BATCH = Histogram(
    "millrace_projection_batch_messages",
    "Messages in one transaction.",
    ["stream"],
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
)
_TRANSACTION = Histogram(
    "millrace_projection_transaction_seconds",
    "Time of one transaction.",
    ["stream"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
_LAG = Gauge("millrace_projection_lag_messages", "Messages not projected yet.", ["stream"])
_SEQUENCE = Gauge("millrace_projection_sequence", "Stream sequence up to which is projected.", ["stream"])
_MISSING = Counter(
    "millrace_projection_missing_total", "Messages that the stream no longer held: expired, or lost.", ["stream"]
)
_UNFOLDED = Counter("millrace_projection_unfolded_total", "Messages projected from compacted logs.", ["stream"])
_DEAD = Counter("millrace_projection_dead_total", "Messages that could not be projected.", ["stream"])
_FENCE_LOST = Counter("millrace_projection_fence_lost_total", "Batches another process wrote.", ["stream"])
_LEADING = Gauge("millrace_projection_leading", "Whether this process writes.", ["stream"])

EVENTS_PROJECTED = Counter("millrace_projection_events_total", "Events projected.")


class StreamMetrics:
    """The metrics of one stream, with their labels bound once: looking one up costs more than counting."""

    def __init__(self, stream: str) -> None:
        self.messages = _MESSAGES.labels(stream)
        self.batch = _BATCH.labels(stream)
        self.transaction_s = _TRANSACTION.labels(stream)
        self.lag = _LAG.labels(stream)
        self.sequence = _SEQUENCE.labels(stream)
        self.missing = _MISSING.labels(stream)
        self.unfolded = _UNFOLDED.labels(stream)
        self.dead = _DEAD.labels(stream)
        self.fence_lost = _FENCE_LOST.labels(stream)
        self.leading = _LEADING.labels(stream)
