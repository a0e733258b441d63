"""The orchestrator's metrics. Labels are bounded: never an id, never a name that a user chose.

| metric | type | meaning |
|---|---|---|
| `millrace_orchestrator_transitions_total` | counter | transitions committed to the log |
| `millrace_orchestrator_events_total{type}` | counter | events in them, by type |
| `millrace_orchestrator_finished_total{status}` | counter | executions that ended, by status |
| `millrace_orchestrator_tick_messages` | histogram | inbox messages handled at once |
| `millrace_orchestrator_tick_seconds` | histogram | from taking them to acknowledging them |
| `millrace_orchestrator_waiting_starts` | gauge | starts that wait in the lines of their workspaces |
| `millrace_orchestrator_starts_given_back_total` | counter | starts left to the server for a while: no room in memory |
| `millrace_orchestrator_fences_lost_total` | counter | commits refused because somebody else wrote first |
| `millrace_orchestrator_gate_verdicts_total{rule,verdict}` | counter | what gates of flow control have said |
| `millrace_orchestrator_gates_contended_total` | counter | changes of gates that came too late, and were made again |
| `millrace_orchestrator_logs_folded_total` | counter | executions read from their log because they were not in memory |
| `millrace_orchestrator_snapshots_total{what}` | counter | snapshots `taken`, `used`, and `doubted` and left alone |
| `millrace_orchestrator_reemitted_total{command,why}` | counter | commands given again: `takeover`, `look`, `retry` |
| `millrace_orchestrator_overdue_total` | counter | looks that found an execution beyond its deadline, and end it |
| `millrace_orchestrator_takeovers_total` | counter | partitions scanned for active executions |
| `millrace_orchestrator_leases_put_total{why}` | counter | leases put anew: `renewed` ones that are old, `woken` ones |
| `millrace_orchestrator_fell_asleep_total` | counter | executions forgotten because all they wait for is elsewhere |
| `millrace_orchestrator_dead_letters_total` | counter | messages that could not be processed |
| `millrace_orchestrator_swept_total` | counter | inbox messages removed because everybody has acknowledged them |
| `millrace_orchestrator_logs_compacted_total` | counter | logs of ended executions that became one message |
| `millrace_orchestrator_logs_compacted_bytes_total{when}` | counter | bytes of those logs, `before` and `after` |
| `millrace_orchestrator_logs_expired_total` | counter | logs removed because their executions ended long ago |
| `millrace_orchestrator_starts_expired_total` | counter | starts of names whose executions ended so long ago |
| `millrace_orchestrator_cached_executions` | gauge | executions in memory |
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from millrace_orchestrator.domain.gates import Rule
from millrace_shared.gates import NoticeKind
from millrace_shared.messages import Event, ExecutionFinished, FinalStatus

_PREFIX = "millrace_orchestrator"

transitions = Counter(f"{_PREFIX}_transitions_total", "Transitions committed to the log.")
_events = Counter(f"{_PREFIX}_events_total", "Events committed to the log.", ["type"])
_finished = Counter(f"{_PREFIX}_finished_total", "Executions that ended.", ["status"])
tick_messages = Histogram(
    f"{_PREFIX}_tick_messages", "Inbox messages handled at once.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
tick_seconds = Histogram(
    f"{_PREFIX}_tick_seconds",
    "From taking messages to acknowledging them.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
waiting_starts = Gauge(f"{_PREFIX}_waiting_starts", "Starts that wait in the lines of their workspaces.")
starts_given_back = Counter(f"{_PREFIX}_starts_given_back_total", "Starts left to the server: no room in memory.")
fences_lost = Counter(f"{_PREFIX}_fences_lost_total", "Commits refused because somebody else wrote first.")
_gate_verdicts = Counter(f"{_PREFIX}_gate_verdicts_total", "What gates have said.", ["rule", "verdict"])
gates_contended = Counter(f"{_PREFIX}_gates_contended_total", "Changes of gates that came too late.")
logs_folded = Counter(f"{_PREFIX}_logs_folded_total", "Executions read from their log.")
_snapshots = Counter(f"{_PREFIX}_snapshots_total", "Snapshots of long executions.", ["what"])
_reemitted = Counter(f"{_PREFIX}_reemitted_total", "Commands given again.", ["command", "why"])
overdue = Counter(f"{_PREFIX}_overdue_total", "Looks that found an execution beyond its deadline, and end it.")
takeovers = Counter(f"{_PREFIX}_takeovers_total", "Partitions scanned for active executions.")
_leases_put = Counter(f"{_PREFIX}_leases_put_total", "Leases put anew.", ["why"])
fell_asleep = Counter(f"{_PREFIX}_fell_asleep_total", "Executions forgotten because all they wait for is elsewhere.")
dead_letters = Counter(f"{_PREFIX}_dead_letters_total", "Messages that could not be processed.")
swept = Counter(f"{_PREFIX}_swept_total", "Inbox messages removed because everybody has acknowledged them.")
logs_compacted = Counter(f"{_PREFIX}_logs_compacted_total", "Logs that became one message.")
_compacted_bytes = Counter(f"{_PREFIX}_logs_compacted_bytes_total", "Bytes of compacted logs.", ["when"])
logs_expired = Counter(f"{_PREFIX}_logs_expired_total", "Logs removed because their executions ended long ago.")
starts_expired = Counter(f"{_PREFIX}_starts_expired_total", "Starts of names whose executions ended so long ago.")
cached_executions = Gauge(f"{_PREFIX}_cached_executions", "Executions in memory.")

# Children are bound once: looking one up by label costs more than counting.
events = {event: _events.labels(type=event.__struct_config__.tag) for event in get_args(Event)}
finished = {status: _finished.labels(status=status) for status in get_args(FinalStatus)}
gate_verdicts = {
    (rule, kind): _gate_verdicts.labels(rule=rule, verdict=kind)
    for rule in get_args(Rule)
    for kind in get_args(NoticeKind)
}
leases_put = {why: _leases_put.labels(why=why) for why in ("renewed", "woken")}
compacted_bytes = {when: _compacted_bytes.labels(when=when) for when in ("before", "after")}
snapshots = {what: _snapshots.labels(what=what) for what in ("taken", "used", "doubted")}


def count_committed(committed: Iterable[Sequence[Event]]) -> None:
    """Count transitions by their events, once for all of a tick: counting takes a lock."""
    kinds: Counts[type] = Counts()
    ends: Counts[FinalStatus] = Counts()
    number = 0
    for number, transition in enumerate(committed, 1):  # noqa: B007
        for event in transition:
            kinds[type(event)] += 1
            if isinstance(event, ExecutionFinished):
                ends[event.status] += 1
    transitions.inc(number)
    for kind, count in kinds.items():
        events[kind].inc(count)
    for status, count in ends.items():
        finished[status].inc(count)


def count_reemitted(command: object, why: str) -> None:
    """Count a command that is given again, by its kind."""
    _reemitted.labels(command=type(command).__name__.lower(), why=why).inc()
