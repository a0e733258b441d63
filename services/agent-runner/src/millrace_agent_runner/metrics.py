"""What the agent runner tells Prometheus. Labels are bounded: kinds, outcomes, and nothing that users name.

| metric | type | labels | meaning |
|---|---|---|---|
| millrace_runner_attempts_total | counter | kind, outcome | attempts that ended: `ok`, `deferred`, an error category |
| millrace_runner_attempt_seconds | histogram | kind | time from start to outcome |
| millrace_runner_slots | gauge | | slots of this process |
| millrace_runner_slots_in_use | gauge | | attempts that are running |
| millrace_runner_results_waiting | gauge | | results that are not stored yet |
| millrace_runner_facts_dropped_total | counter | | facts given up because too many waited |
| millrace_runner_redeliveries_adopted_total | counter | | deliveries of an attempt that was running here already |
| millrace_runner_repeats_dropped_total | counter | | deliveries of an attempt that had its result already |
| millrace_runner_attempts_lost_total | counter | | attempts given up because another runner has them now |
| millrace_runner_cache_total | counter | outcome | results looked up (`hit`, `miss`, `unavailable`) or `stored` |
| millrace_runner_poison_total | counter | | work messages that went to DEAD |
| millrace_runner_llm_calls_total | counter | provider, outcome | calls to models |
| millrace_runner_llm_limits_total | counter | outcome | calls before rate limits: `at_once`, `waited`, `deferred` … |
| millrace_runner_llm_tokens_total | counter | provider, direction | tokens: `input`, `output` |
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from millrace_shared.messages import WORK_KINDS, StepResult, WorkKind

CATEGORIES = frozenset(
    {
        "rate_limit",
        "timeout",
        "server_error",
        "connection",
        "client_error",
        "user_code",
        "input_invalid",
        "invalid_output",
        "tool_error",
        "sandbox_violation",
        "budget_exceeded",
        "llm_rate_limit",
        "llm_timeout",
        "llm_invalid_output",
        "llm_refusal",
        "llm_context_too_large",
        "llm_auth",
        "value_too_large",
        "undeliverable",
        "cancelled",
        "internal",
    }
)
"""The categories that get a label of their own; a function may raise any other, which counts as `other`."""

_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)

_attempts = Counter("millrace_runner_attempts", "Attempts that ended.", ("kind", "outcome"))
_seconds = Histogram("millrace_runner_attempt_seconds", "Time of attempts.", ("kind",), buckets=_BUCKETS_S)
_slots = Gauge("millrace_runner_slots", "Slots of this process.")
_slots_in_use = Gauge("millrace_runner_slots_in_use", "Attempts that are running.")
_results_waiting = Gauge("millrace_runner_results_waiting", "Results that are not stored yet.")
facts_dropped = Counter("millrace_runner_facts_dropped", "Facts given up because too many waited.")
adopted = Counter("millrace_runner_redeliveries_adopted", "Deliveries of an attempt that was running already.")
repeats = Counter("millrace_runner_repeats_dropped", "Deliveries of an attempt that had its result already.")
lost = Counter("millrace_runner_attempts_lost", "Attempts given up because another runner has them now.")
cache = Counter("millrace_runner_cache", "Use of the result cache.", ("outcome",))
poison = Counter("millrace_runner_poison", "Work messages that went to DEAD.")
llm_calls = Counter("millrace_runner_llm_calls", "Calls to models.", ("provider", "outcome"))
llm_limits = Counter("millrace_runner_llm_limits", "Calls before rate limits.", ("outcome",))
llm_tokens = Counter("millrace_runner_llm_tokens", "Tokens of calls to models.", ("provider", "direction"))

# Looking a child up costs more than counting with it, so they are bound once.
_counted = {
    kind: {outcome: _attempts.labels(kind, outcome) for outcome in (*CATEGORIES, "ok", "deferred", "other")}
    for kind in WORK_KINDS
}
_timed = {kind: _seconds.labels(kind) for kind in WORK_KINDS}


def attempt_ended(kind: WorkKind, result: StepResult) -> None:
    """Count one attempt."""
    outcome = "ok" if result.deferred is None else "deferred"
    if result.error is not None:
        outcome = result.error.category
    counted = _counted[kind]
    (counted.get(outcome) or counted["other"]).inc()
    _timed[kind].observe(result.finished_at - result.started_at)


def observe_process(slots: int, in_use: Callable[[], float], results_waiting: Callable[[], float]) -> None:
    """Read the gauges of this process when they are scraped, and at no other time."""
    _slots.set(slots)
    _slots_in_use.set_function(in_use)
    _results_waiting.set_function(results_waiting)
