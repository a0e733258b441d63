from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared import subjects
from millrace_shared.bus.streams import STREAMS
from millrace_shared.ids import partition_of

IDS = st.uuids().map(str)
OF_EXECUTION: list[Callable[[str], str]] = [
    subjects.named_request,
    subjects.start,
    subjects.inbox,
    subjects.log,
    subjects.live,
    lambda execution_id: subjects.fact(execution_id, "llm_call"),
]
STORED: dict[str, list[Callable[[str], str]]] = {
    "REQUESTS": [subjects.named_request],
    "INBOX": [subjects.start, subjects.inbox],
    "EVENTS": [subjects.log],
    "TIMERS": [lambda one: subjects.timer_set(one, "wait-a@1"), lambda one: subjects.timer_fire(one, "wait-a@1")],
    "WORK": [lambda one: subjects.work("python", "normal", one, "load~3@2")],
    "TELEMETRY": [lambda one: subjects.fact(one, "llm_call")],
    "DEFINITIONS": [lambda one: subjects.definition("0" * 64)],
    "GATES": [subjects.gate_state, lambda one: subjects.gate_ticket(one, one)],
    "CACHE": [lambda one: subjects.cache("default", one.replace("-", "") * 2)],
    "JOURNAL": [lambda one: subjects.journal(one, "ask", None, 0), lambda one: subjects.journal(one, "ask", 3, 2)],
    "DEAD": [lambda one: subjects.dead("INBOX"), lambda one: subjects.buried("EVENTS", 7)],
}


def matches(pattern: str, subject: str) -> bool:
    """Whether a NATS subject matches a pattern."""
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(found) >= len(wanted) and matches(".".join(wanted[:-1]), ".".join(found[: len(wanted) - 1]))
    return len(wanted) == len(found) and all(one in {"*", other} for one, other in zip(wanted, found, strict=True))


@given(IDS, st.sampled_from(OF_EXECUTION))
def test_the_execution_is_read_back(execution_id: str, build: Callable[[str], str]):
    subject = build(execution_id)
    assert subjects.execution_id_of(subject) == execution_id
    assert int(subject.split(".")[1]) == partition_of(execution_id)


@given(IDS, IDS)
def test_the_gate_is_read_back(gate_id: str, execution_id: str):
    for subject in (subjects.gate_state(gate_id), subjects.gate_ticket(gate_id, execution_id)):
        assert subjects.gate_id_of(subject) == gate_id
        assert int(subject.split(".")[1]) == partition_of(gate_id)


@pytest.mark.parametrize("stream", STORED)
@given(execution_id=IDS)
def test_what_is_stored_is_listened_for_by_its_stream_and_no_other(stream: str, execution_id: str):
    for build in STORED[stream]:
        listening = [
            one.name for one in STREAMS if any(matches(pattern, build(execution_id)) for pattern in one.subjects)
        ]
        assert listening == [stream]


@given(IDS)
def test_a_purge_of_an_execution_s_work_takes_all_of_it_and_nobody_else_s(execution_id: str):
    pattern = subjects.work_of_execution(execution_id)
    assert matches(pattern, subjects.work("agent", "low", execution_id, "load~3@2"))
    assert matches(pattern, subjects.work("agent", "low-crowded", execution_id, "load~3@2"))
    assert not matches(pattern, subjects.work("agent", "low", execution_id[::-1], "load~3@2"))


@given(IDS)
def test_controls_are_not_stored(execution_id: str):
    for subject in (
        subjects.cancel_control(execution_id),
        subjects.taken_control(execution_id),
        subjects.crowded_control("agent", "low-crowded"),
        subjects.workflow_control("default"),
    ):
        assert not any(matches(pattern, subject) for one in STREAMS for pattern in one.subjects)
