"""What a result costs does not depend on how large the workflow is. Counted in calls, not in time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from millrace_orchestrator.domain import decide, drafting

PY = {"python": "m:f"}
WIDTH = 10
SIZES = (100, 1_000, 10_000)


def layered(size: int) -> dict[str, Any]:
    """Layers of ten steps; each step needs the two above it, so each result has two children."""
    return {
        f"s{index}": {
            **PY,
            "needs": sorted({f"s{index - WIDTH}", f"s{index - index % WIDTH - WIDTH + (index + 1) % WIDTH}"})
            if index >= WIDTH
            else [],
        }
        for index in range(size)
    }


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often the core looks at a step, and how often it changes the state."""
    counter: Counter[str] = Counter()
    consider, evolve = decide.consider, drafting.evolve

    def counted_consider(*arguments: Any) -> Any:
        counter["consider"] += 1
        return consider(*arguments)

    def counted_evolve(*arguments: Any) -> Any:
        counter["evolve"] += 1
        return evolve(*arguments)

    monkeypatch.setattr(decide, "consider", counted_consider)
    monkeypatch.setattr(drafting, "evolve", counted_evolve)
    return counter


def costs(play: Any, calls: Counter[str], steps: dict[str, Any], results: int) -> list[tuple[int, int, int]]:
    """Return events, looks and changes of each of the first results."""
    p = play(steps, limits={"max_parallel": 100})
    p.start()
    found = []
    for index in range(results):
        calls.clear()
        events = p.complete(f"s{index}", index)
        found.append((len(events), calls["consider"], calls["evolve"]))
    return found


def test_a_result_costs_its_children_whatever_the_size_of_the_graph(play: Any, calls: Counter[str]) -> None:
    by_size = [costs(play, calls, layered(size), results=60) for size in SIZES]
    assert by_size[0] == by_size[1] == by_size[2]
    for events, looks, changes in by_size[0]:
        assert events == changes <= 3, "one completed, two scheduled"
        assert looks == 2


def test_a_result_before_a_wide_fan_costs_the_fan_and_one_in_it_costs_nothing_more(
    play: Any, calls: Counter[str]
) -> None:
    width = 500
    fan = {"s0": PY} | {f"s{index}": {**PY, "needs": ["s0"]} for index in range(1, width + 1)}
    joined = {**fan, "join": {**PY, "needs": [f"s{index}" for index in range(1, width + 1)]}}
    first, *others = costs(play, calls, joined, results=width)
    assert first == (width + 1, width, width + 1)
    handing_on = width - 100  # so many wait for a place, and each result gives one to the next
    assert others == [(2, 1, 2)] * handing_on + [(1, 1, 1)] * (width - 1 - handing_on)


def test_the_start_costs_the_roots(play: Any, calls: Counter[str]) -> None:
    for size in SIZES:
        p = play(layered(size))
        calls.clear()
        events = p.start()
        assert len(events) == WIDTH + 1
        assert calls == {"consider": WIDTH, "evolve": WIDTH + 1}
