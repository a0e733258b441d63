import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.definition.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15m", 900.0),
        ("2s", 2.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("1d", 86_400.0),
        ("1m250ms", 60.25),
        (" 5s ", 5.0),
        (0, 0.0),
        (90, 90.0),
        (0.25, 0.25),
    ],
)
def test_reads_durations(text: str | float, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "m", "5", "5 m", "-5s", "5s5m", "1h1h", "abc", "5sec", -1, 1e99, math.nan, True, None, [], "9" * 99 + "s"],
)
def test_refuses_what_is_none(text: object):
    with pytest.raises(ValueError, match=r"duration"):
        parse_duration(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 999))
def test_adds_up_the_parts(hours: int, minutes: int, seconds: int, millis: int):
    expected = hours * 3600 + minutes * 60 + seconds + millis / 1000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{millis}ms") == pytest.approx(expected)
