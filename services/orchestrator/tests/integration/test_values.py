"""Large values become blobs before the commit, and the state says what the log says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millrace_orchestrator.adapters import plans as plans_module
from millrace_orchestrator.adapters.payloads import PUTS_AT_ONCE, TRANSITION_BYTES_MAX, fit
from millrace_orchestrator.adapters.plans import Plans
from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.errors import DefinitionMissing
from millrace_shared.blobs import INLINE_BYTES_MAX, Blobs
from millrace_shared.codec import encode
from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.errors import ValueTooLarge
from millrace_shared.messages import LOG_VERSION, StepCompleted, StepSkipped, Transition
from millrace_shared.values import Payload

PY = {"python": "m:f"}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """The blob store of `start_engine`."""
    return Blobs(f"file://{tmp_path / 'blobs'}")


async def test_a_large_transform_is_a_blob_in_the_log_and_in_the_state(
    bus: Any, start_engine: Any, blobs: Blobs
) -> None:
    engine = await start_engine()
    definition = await bus.define(
        {
            "twice": {"transform": {"a": "${{ inputs.text }}", "b": "${{ inputs.text }}"}},
            "next": {**PY, "needs": ["twice"], "input": {"all": "${{ steps.twice.output }}"}},
        },
        inputs={"text": {"type": "string"}},
    )
    text = "x" * (INLINE_BYTES_MAX * 2 // 3)
    execution = await bus.start(definition, {"text": text})
    await bus.has_queued(execution, "next@1")
    completed = await bus.event(execution, StepCompleted)
    assert completed.output.data is None
    assert await blobs.load("default", completed.output.refs[""]) == {"a": text, "b": text}
    cached = engine._executions[execution]
    assert cached.state == fold(cached.plan, await bus.log(execution))
    await bus.perform(execution, "next")
    assert (await bus.ended(execution)).status == "completed"


async def test_an_expression_into_a_claim_checked_output_loads_it(bus: Any, start_engine: Any, blobs: Blobs) -> None:
    await start_engine()
    definition = await bus.define(
        {
            "a": PY,
            "b": {**PY, "needs": ["a"], "when": "steps.a.output.n == 7", "input": {"n": "${{ steps.a.output.n }}"}},
        }
    )
    execution = await bus.start(definition)
    output = await blobs.pack("default", {"n": 7, "rows": ["r" * 1000] * 100})
    assert output.refs
    await bus.perform(execution, "a", output)
    assert (await bus.take(execution, "b")).input == Payload({"n": 7})
    assert (await bus.event(execution, StepCompleted)).output == output


async def test_a_blob_that_cannot_be_read_keeps_its_own_execution_only(
    bus: Any, start_engine: Any, blobs: Blobs, tmp_path: Path
) -> None:
    await start_engine()
    reader = {"a": PY, "b": {**PY, "needs": ["a"], "input": {"n": "${{ steps.a.output.n }}"}}}
    execution, other = await bus.start(await bus.define(reader)), await bus.start(await bus.define({"a": PY}))
    output = await blobs.pack("default", {"n": 7, "rows": ["r" * 1000] * 100})
    (path,) = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    hidden = path.rename(tmp_path / "hidden")
    await bus.perform(execution, "a", output)
    await bus.perform(other, "a")
    assert (await bus.ended(other)).status == "completed"
    hidden.rename(path)
    assert (await bus.take(execution, "b")).input == Payload({"n": 7})


def transition(*events: Any) -> Transition:
    return Transition(LOG_VERSION, "e1", 1, 1.0, events)


async def test_what_fits_stays_as_it_is(blobs: Blobs) -> None:
    small = transition(*(StepCompleted(f"s{index}", output=Payload("x" * 1000)) for index in range(200)))
    fitted, payload = await fit(blobs, "default", small)
    assert (fitted, payload) == (small, encode(small))


async def test_many_values_at_once_shrink_until_they_fit_together(blobs: Blobs) -> None:
    values = ["y" * 40_000 + str(index) for index in range(250)]
    large = transition(*(StepCompleted(f"s{index}", output=Payload(value)) for index, value in enumerate(values)))
    assert len(encode(large)) > TRANSITION_BYTES_MAX
    fitted, payload = await fit(blobs, "default", large)
    assert len(payload) <= TRANSITION_BYTES_MAX
    assert payload == encode(fitted)
    outputs = [event.output for event in fitted.events if isinstance(event, StepCompleted)]
    assert [await blobs.unpack("default", output) for output in outputs] == values


async def test_values_are_moved_together_but_not_all_at_once(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    put, under_way, most = blobs.put, 0, 0

    async def counted(workspace: str, document: bytes) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await put(workspace, document)
        finally:
            under_way -= 1

    monkeypatch.setattr(blobs, "put", counted)
    values = [f"{index:5}" + "y" * 70_000 for index in range(2 * PUTS_AT_ONCE)]
    large = transition(*(StepCompleted("s", item=item, output=Payload(value)) for item, value in enumerate(values)))
    await fit(blobs, "default", large)
    assert 1 < most <= PUTS_AT_ONCE


async def test_too_many_events_for_a_message_are_refused(blobs: Blobs) -> None:
    with pytest.raises(ValueTooLarge, match="80000 events at once"):
        await fit(blobs, "default", transition(*(StepSkipped(f"s{index}", "r" * 80) for index in range(80_000))))


async def test_a_value_that_no_blob_takes_fails_the_execution(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_shared.blobs.VALUE_BYTES_MAX", 100_000)
    await start_engine()
    definition = await bus.define(
        {"big": {"transform": ["${{ inputs.text }}"] * 3}, "b": PY}, inputs={"text": {"type": "string"}}
    )
    execution = await bus.start(definition, {"text": "x" * 50_000})
    finished = await bus.ended(execution)
    assert (finished.status, finished.error.code) == ("failed", "value_too_large")
    await bus.unacknowledged(execution, 0)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the definitions that were compiled."""
    names: list[str] = []
    compile_plan = plans_module.compile_plan

    def counted(definition: Any) -> Any:
        names.append(definition.name)
        return compile_plan(definition)

    monkeypatch.setattr(plans_module, "compile_plan", counted)
    return names


async def test_plans_that_are_used_least_make_room(
    bus: Any, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans_module, "CACHE_MAX", 2)
    plans = Plans(bus.connection, bus.publisher)
    one, two, three = [await bus.define({step: PY}) for step in "abc"]
    for plan_hash in (one, two, one, three, one):
        await plans.get(plan_hash)
    assert len(compiled) == 3, "the first was used in between, so it stayed"
    await plans.get(two)
    assert len(compiled) == 4


async def test_a_plan_that_many_ask_for_at_once_is_compiled_once(bus: Any, compiled: list[str]) -> None:
    plans = Plans(bus.connection, bus.publisher)
    plan_hash = await bus.define({"a": PY})
    found = await asyncio.gather(*(plans.get(plan_hash) for _ in range(50)))
    assert len(compiled) == 1
    assert all(plan is found[0] for plan in found)


async def test_a_plan_that_is_missing_is_looked_for_again(bus: Any) -> None:
    plans = Plans(bus.connection, bus.publisher)
    missing = content_hash(canonical_json(WorkflowDefinition.model_validate({"name": "wf", "steps": {"late": PY}})))
    with pytest.raises(DefinitionMissing, match="save the workflow again"):
        await plans.get(missing)
    assert await bus.define({"late": PY}) == missing
    assert set((await plans.get(missing)).steps) == {"late"}
