from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.cli.show import BAR_CHARS, bar, cost_text, duration_text, progress_text, value_text
from millrace.client.shapes import Progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.0, "0 ms"), (0.0124, "12 ms"), (3.42, "3.4 s"), (125, "2 min 05 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float | None, text: str):
    assert duration_text(seconds) == text


def test_an_unknown_cost_is_not_a_cost_of_nothing():
    assert cost_text(None) == "?"
    assert cost_text(0.0) == ""
    assert cost_text(0.01234) == "$0.0123"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_a_value_is_one_line_of_at_most_so_many_characters(text: str, chars_max: int):
    shown = value_text(text, chars_max)
    assert len(shown) <= chars_max
    assert "\n" not in shown


def test_a_value_that_the_server_cut_is_shown_by_its_beginning():
    assert value_text({"truncated": True, "size_bytes": 9000, "preview": "[1, 2"}) == "[1, 2"


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.001, 1e6))
def test_a_bar_stays_on_its_line(offset_s: float, duration_s: float, total_s: float):
    shown = bar(offset_s, duration_s, total_s)
    assert len(shown) == BAR_CHARS
    assert "━" in shown


def test_what_did_not_run_has_no_bar():
    assert bar(None, None, 3.0) == bar(0.0, None, 3.0) == bar(0.0, 1.0, None) == ""


@pytest.mark.parametrize(
    ("status", "fields", "text"),
    [
        ("completed", {}, "completed"),
        ("completed", {"cached": True}, "completed (cached)"),
        ("completed", {"reused_from": "before"}, "completed (reused)"),
        ("waiting", {"reason": "approval"}, "waiting (approval)"),
        ("skipped", {"reason": "its condition is false"}, "skipped"),
    ],
)
def test_a_status_says_what_it_waits_for_or_that_nothing_was_done(status: str, fields: dict[str, Any], text: str):
    step = {"status": status, "reason": None, "cached": False, "reused_from": None, **fields}
    assert progress_text(cast("Progress", step)).plain == text
