import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.ids import (
    PARTITION_COUNT,
    attempt_key,
    is_execution_id,
    named_execution_id,
    new_id,
    partition_of,
)

SECONDS = st.floats(0, 2**48 / 1000 - 1)
RANDOMNESS = st.binary(min_size=10, max_size=10)


@given(SECONDS, RANDOMNESS)
def test_an_id_is_a_uuid_of_version_7_that_tells_its_time(now_s: float, randomness: bytes):
    parsed = uuid.UUID(new_id(now_s, randomness))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == int(now_s * 1000)
    kept = (1 << 80) - 1 - (0xF << 76) - (0x3 << 62)
    assert parsed.int & kept == int.from_bytes(randomness, "big") & kept


@given(SECONDS, SECONDS, RANDOMNESS, RANDOMNESS)
def test_ids_sort_by_time(one_s: float, other_s: float, randomness: bytes, other_randomness: bytes):
    if int(one_s * 1000) < int(other_s * 1000):
        assert new_id(one_s, randomness) < new_id(other_s, other_randomness)


def test_ids_of_one_moment_differ():
    assert len({new_id(1_790_000_000.0) for _ in range(1000)}) == 1000
    assert is_execution_id(new_id())


def test_a_name_always_gives_the_same_id():
    """Recorded: an id that moved would start every named execution a second time."""
    assert named_execution_id("default", "wf-1", "nightly") == "3923d336-d3e9-5915-bc87-30ab6d4260c0"


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), unique=True, max_size=20))
def test_different_names_give_different_ids(names: list[tuple[str, str, str]]):
    plain = [name for name in names if "\x00" not in "".join(name)]
    ids = {named_execution_id(*name) for name in plain}
    assert len(ids) == len(plain)
    assert all(is_execution_id(one) and uuid.UUID(one).version == 5 for one in ids)


@given(st.uuids())
def test_only_the_canonical_spelling_is_an_id(value: uuid.UUID):
    text = str(value)
    assert is_execution_id(text)
    for other in (text.upper(), text.replace("-", ""), f"{{{text}}}", f"urn:uuid:{text}", f" {text}", f"{text}\n"):
        assert not is_execution_id(other) or other == text


@given(st.text())
def test_no_other_text_is_an_id(text: str):
    assert not is_execution_id(text)


@pytest.mark.parametrize(
    ("text", "digest"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968), ("hello", 0x4F9F2CAB)]
)
def test_the_partition_is_fnv_1a(text: str, digest: int):
    """Known vectors of FNV-1a with 32 bits: the partition is part of every stored subject and must never move."""
    assert partition_of(text) == digest % PARTITION_COUNT
    assert PARTITION_COUNT == 16


@given(st.text())
def test_a_partition_is_within_its_range(text: str):
    assert 0 <= partition_of(text) < PARTITION_COUNT


def test_partitions_are_evenly_used():
    counts = [0] * PARTITION_COUNT
    for number in range(16_000):
        counts[partition_of(str(uuid.UUID(int=number)))] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


@given(
    st.tuples(st.from_regex(r"\A[a-z][a-z0-9_-]{0,20}\Z"), st.none() | st.integers(0, 10_000), st.integers(1, 100)),
    st.tuples(st.from_regex(r"\A[a-z][a-z0-9_-]{0,20}\Z"), st.none() | st.integers(0, 10_000), st.integers(1, 100)),
)
def test_the_key_of_an_attempt_is_its_own_and_a_subject_token(
    one: tuple[str, int | None, int], other: tuple[str, int | None, int]
):
    assert (attempt_key(*one) == attempt_key(*other)) == (one == other)
    assert not set(attempt_key(*one)) & set(". *>\t\r\n")


def test_the_key_of_an_attempt_reads_well():
    assert attempt_key("load", None, 1) == "load@1"
    assert attempt_key("summarize", 3, 2) == "summarize~3@2"
