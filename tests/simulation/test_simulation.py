"""A sample of the seeded histories; `make simulation` plays ten thousand."""

from __future__ import annotations

import pytest
from simulate import replay, simulate

SAMPLE = 1_000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SAMPLE, CHUNK))
def test_every_accepted_execution_ends_once_and_in_order(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            simulate(seed)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}\nreplay: {replay(seed)}")


def test_a_seed_always_plays_the_same_history() -> None:
    assert simulate(7) == simulate(7)


def test_the_sample_meets_every_outcome_and_crashes_a_lot() -> None:
    histories = [simulate(seed) for seed in range(200)]
    assert {outcome for history in histories for outcome in history.outcomes} == {
        "completed",
        "failed",
        "cancelled",
        "timeout",
    }
    assert sum(history.crashes for history in histories) > 500
