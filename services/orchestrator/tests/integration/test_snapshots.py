"""Long executions are folded from their last snapshot, and from their beginning whenever that is in doubt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters import journal, snapshots
from millrace_orchestrator.domain.snapshot import FORMAT
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.ids import new_id

STEPS = {f"s{number}": {"python": "m:f", "needs": [f"s{number - 1}"] if number else []} for number in range(8)}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_EVERY", 3)
    monkeypatch.setattr(journal, "SNAPSHOT_EVERY", 3)


def counted(what: str) -> float:
    return float(metrics.snapshots[what]._value.get())


async def half_way(bus: Any) -> str:
    """Start an execution and perform steps until there is a snapshot of it, and something after it."""
    execution = await bus.start(await bus.define(STEPS))
    for number in range(4):
        await bus.perform(execution, f"s{number}", {"n": number})
    await bus.has_queued(execution, "s4@1")

    async def taken() -> Any:
        return await snapshot(bus, execution)

    await bus.eventually(taken, "a snapshot")
    return str(execution)


async def snapshot(bus: Any, execution: str) -> Any:
    stored = await bus.stored("SNAPSHOTS", subjects.snapshot(execution))
    return msgspec.json.decode(stored[-1].payload) if stored else None


async def replace(bus: Any, execution: str, document: Any) -> None:
    await bus.publisher.publish(Outgoing(subjects.snapshot(execution), msgspec.json.encode(document)))


async def test_it_is_folded_from_its_snapshot_and_goes_on(bus: Any, start_engine: Any, stop_engine: Any) -> None:
    first = await start_engine()
    execution = await half_way(bus)
    whole = first._executions[execution]
    await stop_engine(first)
    second, used = await start_engine(), counted("used")
    loaded = await second._journal.load(execution)
    assert counted("used") > used
    assert (loaded.state, loaded.sequence, loaded.changed_at) == (whole.state, whole.sequence, whole.changed_at)
    for number in range(4, 8):
        await bus.perform(execution, f"s{number}", {"n": number})
    assert (await bus.ended(execution)).status == "completed"

    async def removed() -> bool:
        return await snapshot(bus, execution) is None

    await bus.eventually(removed, "the snapshot of what has ended to be removed")


@pytest.mark.parametrize(
    "doubt",
    [
        {"format": "of another version"},
        {"definition": "of another"},
        {"part": "another/one"},
        {"execution": True},
        {"sequence": 1},
        {"version": 2},
        {"version": 99},
        {"state": {"nonsense": True}},
        {"everything": "not even an object"},
    ],
    ids=lambda doubt: "-".join(str(one) for pair in doubt.items() for one in pair),
)
async def test_a_snapshot_in_doubt_is_left_alone(bus: Any, start_engine: Any, doubt: dict[str, Any]) -> None:
    engine = await start_engine()
    execution = await half_way(bus)
    truth = engine._executions[execution].state
    document = await snapshot(bus, execution)
    assert document["format"] == FORMAT
    match doubt:
        case {"version": version}:
            document["state"]["version"] = version
        case {"execution": _}:
            document["state"]["request"]["execution_id"] = new_id()
        case {"definition": other} | {"part": other}:
            document["state"]["request"][next(iter(doubt))] = other
        case {"everything": other}:
            document = other
        case _:
            document |= doubt
    await replace(bus, execution, document)
    used, doubted = counted("used"), counted("doubted")
    assert (await engine._journal.load(execution)).state == truth
    assert counted("used") == used
    assert counted("doubted") == doubted + 1


async def test_a_short_execution_has_none(bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_EVERY", 500)
    await start_engine()
    execution = await bus.start(await bus.define({"a": {"python": "m:f"}}))
    await bus.perform(execution, "a")
    await bus.ended(execution)
    assert await bus.stored("SNAPSHOTS") == []
