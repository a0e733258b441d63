import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_api.domain.documents import DEPTH_MAX, INTEGER_MAX, decode
from millrace_api.domain.launch import decode_launch, same_input, wait_seconds
from millrace_api.errors import Refused

ANYTHING = msgspec.json.Decoder(object)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_launch_or_refused(body: bytes) -> None:
    with contextlib.suppress(Refused):
        assert decode_launch(body).workflow


@given(json_values)
def test_json_within_the_bounds_comes_back_as_it_is(value: object) -> None:
    assert decode(ANYTHING, msgspec.json.encode(value)) == value


@given(json_values)
def test_an_input_is_the_same_however_its_members_are_ordered(value: object) -> None:
    def reordered(one: object) -> object:
        if isinstance(one, dict):
            return {name: reordered(one[name]) for name in reversed(list(one))}
        return [reordered(item) for item in one] if isinstance(one, list) else one

    assert same_input(value, reordered(value))


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), ({"a": None}, {}), ([1, 2], [2, 1]), ("1", 1)])
def test_inputs_that_only_look_alike_differ(one: object, other: object) -> None:
    assert not same_input(one, other)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "too_deep"),
        (b'["a\\u0000"]', "nul_character"),
        (b'{"a\\u0000":1}', "nul_character"),
        (str(INTEGER_MAX + 1).encode(), "number_out_of_range"),
        (str(-INTEGER_MAX - 2).encode(), "number_out_of_range"),
    ],
)
def test_json_that_some_store_would_not_take_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        decode(ANYTHING, body)
    assert refused.value.errors[0]["type"] == kind


@pytest.mark.parametrize("body", [b'"\\\\u0000"', b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, str(INTEGER_MAX).encode()])
def test_what_only_looks_like_it_is_taken(body: bytes) -> None:
    decode(ANYTHING, body)


def test_a_mistake_names_its_place_and_value() -> None:
    with pytest.raises(Refused) as refused:
        decode_launch(b'{"workflow":"w","labels":{"a":"b","c":7}}')
    (mistake,) = refused.value.errors
    assert mistake["loc"][:2] == ["body", "labels"]
    with pytest.raises(Refused) as refused:
        decode_launch(b'{"workflow":"w","version":"two"}')
    (mistake,) = refused.value.errors
    assert (mistake["loc"], mistake["input"]) == (["body", "version"], "two")
    assert "version" in refused.value.detail


def test_null_and_absent_are_the_same() -> None:
    nulls = b'{"workflow":"w","version":null,"execution_name":null,"input":null,"priority":null,"labels":null}'
    assert decode_launch(nulls) == decode_launch(b'{"workflow":"w"}')


def test_wait_is_bounded() -> None:
    assert (wait_seconds(None), wait_seconds("0"), wait_seconds("2.5"), wait_seconds("60")) == (0, 0, 2.5, 60)
    for text in ("-1", "60.1", "nan", "", "1e9", "x"):
        with pytest.raises(Refused):
            wait_seconds(text)
