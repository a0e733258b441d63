import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.executors.agent.tools.cut import cut, cut_text

json_values = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@given(json_values, st.integers(64, 500))
def test_what_fits_stays_and_what_does_not_becomes_short_and_says_so(value: object, size_bytes_max: int) -> None:
    shown = cut(value, size_bytes_max)
    if len(msgspec.json.encode(value)) <= size_bytes_max:
        assert shown == value
    else:
        assert len(msgspec.json.encode(shown)) <= 6 * size_bytes_max + 100  # control characters are six bytes in JSON


@given(st.text(), st.integers(0, 100))
def test_a_cut_text_begins_and_ends_as_the_whole(text: str, size_bytes_max: int) -> None:
    shown = cut_text(text, size_bytes_max)
    if shown == text:
        return
    start, _, rest = shown.rpartition("\n[cut: ")
    end = rest.partition("left out here]\n")[2]
    assert text.startswith(start)
    assert text.endswith(end)
    assert len(start.encode()) + len(end.encode()) <= size_bytes_max


def test_the_note_says_how_much_is_missing() -> None:
    assert cut_text("a" * 100, 40) == "a" * 30 + "\n[cut: 60 of 100 bytes were left out here]\n" + "a" * 10


def test_an_object_keeps_its_form_when_one_long_text_is_to_blame() -> None:
    shown = cut({"status": 200, "body": "b" * 10_000}, 1_000)
    assert shown["status"] == 200
    assert len(shown["body"]) < 1_100
    assert "of 10000 bytes were left out" in shown["body"]
    assert isinstance(cut([["c" * 900], ["d" * 900]], 1_000), str)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        cut(object(), 1_000)
