import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.ids import new_id
from millrace_shared.tracing import attempt_span_id, execution_span_id, parse_traceparent, trace_id

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EXECUTION = "01927c5e-8b6f-7a3d-9c4e-1f2a3b4c5d6e"


def test_the_caller_s_trace_is_continued():
    traceparent = f"00-{TRACE}-{SPAN}-01"
    assert parse_traceparent(traceparent) == (TRACE, SPAN)
    assert trace_id(EXECUTION, traceparent) == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_without_a_valid_one_the_execution_is_the_trace(traceparent: str | None):
    assert parse_traceparent(traceparent) is None
    assert trace_id(EXECUTION, traceparent) == EXECUTION.replace("-", "")


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str):
    parsed = parse_traceparent(text)
    assert parsed is None or text.startswith(f"00-{parsed[0]}-{parsed[1]}-")


def test_span_ids_are_the_same_wherever_they_are_computed():
    """Recorded: the runner and the telemetry service of different versions must name the same span."""
    assert execution_span_id(EXECUTION) == "fdc4dbcc63c6b6e3"
    assert attempt_span_id(EXECUTION, "load@1") == "9609ad4d2557a99e"


@given(st.lists(st.text(max_size=20), unique=True, min_size=2, max_size=20))
def test_spans_differ_and_have_the_right_shape(keys: list[str]):
    execution_id = new_id()
    spans = [execution_span_id(execution_id), *(attempt_span_id(execution_id, key) for key in keys)]
    assert len(set(spans)) == len(spans)
    assert all(re.fullmatch("[0-9a-f]{16}", span) for span in spans)
