from base64 import urlsafe_b64encode
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_api.domain.filters import (
    ExecutionFilter,
    cursor_of,
    in_utc,
    order_by,
    read_cursor,
    read_labels,
    read_sequence_cursor,
    read_statuses,
    sequence_cursor,
    where,
)
from millrace_api.domain.launch import LABELS_MAX
from millrace_api.domain.positions import Position
from millrace_api.errors import Refused

MOMENT = datetime(2026, 1, 15, 10, tzinfo=UTC)


def test_a_condition_binds_every_value_and_always_the_workspace() -> None:
    chosen = ExecutionFilter(
        workflow_id="w",
        statuses=("failed",),
        labels=(("a", "b'; DROP"), ("c", None)),
        execution_name="n",
        started_after=MOMENT,
        started_before=MOMENT,
        after=(MOMENT, "id"),
    )
    condition, values = where("default", chosen)
    assert condition.startswith("workspace = $1 AND ")
    assert all(f"${number}" in condition for number in range(1, len(values) + 1))
    assert "DROP" not in condition
    assert values == ["default", "w", ["failed"], {"a": "b'; DROP"}, "c", "n", MOMENT, MOMENT, MOMENT, "id"]
    assert condition.count("parent_id IS NULL") == 1
    unpaged, fewer = where("default", chosen, paged=False)
    assert "created_at" not in unpaged
    assert fewer == values[:-2]


def test_a_page_goes_on_in_the_direction_of_the_list() -> None:
    down, _ = where("default", ExecutionFilter(after=(MOMENT, "x")))
    up, _ = where("default", ExecutionFilter(after=(MOMENT, "x"), sort="created_at"))
    assert "(created_at, id) < " in down
    assert "(created_at, id) > " in up
    assert order_by(ExecutionFilter()) == "created_at DESC, id DESC"
    assert order_by(ExecutionFilter(sort="created_at")) == "created_at, id"


@given(st.datetimes(timezones=st.just(UTC)), st.text(st.characters(exclude_characters="\x00", codec="utf-8")))
def test_cursors_come_back(moment: datetime, row_id: str) -> None:
    assert read_cursor(cursor_of(moment, row_id)) == (moment, row_id)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00"])
def test_times_that_no_database_takes_are_refused(moment: str) -> None:
    with pytest.raises(Refused):
        read_cursor(urlsafe_b64encode(msgspec.json.encode([moment, "id"])).decode())
    with pytest.raises(Refused) as refused:
        in_utc(datetime.fromisoformat(moment), ("query", "since"))
    assert refused.value.errors[0]["loc"] == ["query", "since"]


def test_a_time_without_an_offset_is_utc() -> None:
    assert in_utc(datetime(2026, 1, 15, 10), ("query", "since")) == MOMENT  # noqa: DTZ001  that is what it is about
    assert in_utc(datetime.fromisoformat("2026-01-15T12:00:00+02:00"), ("query", "since")) == MOMENT
    assert in_utc(None, ("query", "since")) is None


@given(st.integers(0, 10**18 - 1))
def test_sequence_cursors_come_back(sequence: int) -> None:
    assert read_sequence_cursor(sequence_cursor(sequence)) == sequence


@given(st.text(max_size=40))
def test_any_other_text_is_no_cursor_or_harmless(text: str) -> None:
    for read in (read_cursor, read_sequence_cursor):
        try:
            read(text)
        except Refused:
            continue


def test_statuses_are_read_in_both_spellings() -> None:
    assert read_statuses(["failed,timeout", "running"]) == ("failed", "timeout", "running")
    assert read_statuses(None) == ()
    with pytest.raises(Refused, match="completed"):
        read_statuses(["done"])


def test_labels_are_read_with_and_without_a_value() -> None:
    assert read_labels(["a:b", "c=d:e", "f", ":g"]) == (("a", "b"), ("c", "d:e"), ("f", None), (":g", None))
    with pytest.raises(Refused, match="at most 32"):
        read_labels([f"a{number}" for number in range(LABELS_MAX + 1)])


@given(st.integers(0, 10**9 - 1), st.integers(-1, 10**9 - 1), st.integers(0, 10**18 - 1))
def test_positions_come_back(version: int, event: int, sequence: int) -> None:
    position = Position(version, event, sequence)
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize("text", ["1", "a.b-c", "1.1-1 ", "-1.0-0", "1.1-\u0661", "9" * 40])
def test_other_texts_are_no_positions(text: str) -> None:
    with pytest.raises(Refused):
        Position.parse(text)


def test_children_are_listed_when_they_are_asked_for() -> None:
    assert where("default", ExecutionFilter(scope="all")) == ("workspace = $1", ["default"])
    assert where("default", ExecutionFilter(scope="workflows")) == ("workspace = $1 AND NOT inline", ["default"])
    of_one = where("default", ExecutionFilter(parent_id="p"))
    assert of_one == ("workspace = $1 AND parent_id = $2", ["default", "p"])
