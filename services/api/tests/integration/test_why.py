"""Why an execution has not ended, and its graph: what the bus, the database and the log say together."""

import time
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import decode_request, encode
from millrace_shared.gates import GateDocument, GateState, Terms, Ticket
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    ExecutionHeld,
    ExecutionStarted,
    Parent,
    StartRequest,
    StepCompleted,
    StepExpanded,
    StepQueued,
    StepScheduled,
    StepWaiting,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

FETCH = {"http": {"url": "https://api.example.com"}}


async def why(api: Any, execution_id: str) -> dict[str, Any]:
    answer = await api.http.get(f"/api/v1/executions/{execution_id}/why")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def started(api: Any, workflow: str, *events: Any) -> str:
    """An execution with the given events in its first transition."""
    execution_id: str = await api.execution(workflow)
    request = await request_of(api, execution_id)
    await api.orchestrator.append(execution_id, ExecutionStarted(request, time.time() + 60), *events)
    return execution_id


async def request_of(api: Any, execution_id: str) -> StartRequest:
    stored = await read_last(api.orchestrator.connection, "INBOX", subjects.start(execution_id))
    assert stored is not None
    return decode_request(stored.payload)


async def publish(api: Any, subject: str, payload: bytes) -> None:
    await api.orchestrator.publisher.publish(Outgoing(subject, payload))


async def test_an_accepted_execution_that_nobody_reads(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    found = await why(api, execution_id)
    assert (found["execution_id"], found["status"]) == (execution_id, "pending")
    assert [one["code"] for one in found["reasons"]] == ["accepted"]
    assert found["message"].endswith("and no orchestrator serves its partition right now")
    unknown = await api.http.get(f"/api/v1/executions/{new_id()}/why")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "execution_not_found")


async def test_it_is_told_where_no_telemetry_service_has_run(lonely_api: Any) -> None:
    workflow = await lonely_api.workflow(steps={"fetch": FETCH})
    execution_id = await started(lonely_api, workflow, StepScheduled("fetch", 1))
    assert [one["code"] for one in (await why(lonely_api, execution_id))["reasons"]] == ["handed_out"]


async def test_work_in_the_queue_is_counted_until_a_runner_has_begun_it(api: Any) -> None:
    workflow = await api.workflow(steps={"fetch": FETCH})
    execution_id = await started(api, workflow, StepScheduled("fetch", 1))
    for number in range(3):
        await publish(api, subjects.work("http", "normal-crowded", new_id(), f"x-{number}"), b"{}")
    found = await why(api, execution_id)
    assert "none has said that it began it: 3 http attempts are queued, 0 are taken, and no runner" in found["message"]
    await api.database.execute(
        "INSERT INTO telemetry.attempt_starts (execution_id, step, item, attempt, started_at, runner) "
        "VALUES ($1, 'fetch', -1, 1, now() - interval '3 seconds', 'runner-7')",
        execution_id,
    )
    found = await why(api, execution_id)
    assert [one["code"] for one in found["reasons"]] == ["running"]
    assert "on runner-7, of at most" in found["message"]


async def test_a_gate_counts_who_is_inside_and_who_is_ahead(api: Any) -> None:
    gate = new_id()
    execution_id = await started(api, await api.workflow(), ExecutionHeld(gate, "concurrency", "acme"))
    state = GateState(Terms(limit=2), inside=(new_id(), new_id()))
    await publish(api, subjects.gate_state(gate), encode(GateDocument(time.time(), state)))
    for ahead in (new_id(), new_id()):
        await publish(api, subjects.gate_ticket(gate, ahead), encode(Ticket(time.time())))
    await publish(api, subjects.gate_ticket(gate, new_id()), encode(Ticket(time.time(), "left")))
    await publish(api, subjects.gate_ticket(gate, execution_id), encode(Ticket(time.time())))
    await publish(api, subjects.gate_ticket(gate, new_id()), encode(Ticket(time.time())))
    found = await why(api, execution_id)
    assert found["status"] == "pending"
    assert found["message"].endswith("2 are inside, of at most 2, and 2 are ahead of it")
    detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert (detail["held"]["rule"], detail["held"]["key"], detail["started_at"]) == ("concurrency", "acme", None)


async def test_children_are_explained_down_to_the_one_that_waits(api: Any) -> None:
    workflow = await api.workflow(
        steps={"team": {"group": {"steps": {"inner": {"group": {"steps": {"ok": {"approval": {"message": "?"}}}}}}}}}
    )
    ids = [new_id(), new_id()]
    top = await started(api, workflow, StepScheduled("team", 1, child=ids[0]))
    missing = await why(api, top)
    assert missing["message"] == f"step `team` waits for its execution {ids[0]}: it has not been accepted yet"
    request = await request_of(api, top)
    team = StepScheduled("inner", 1, child=ids[1])
    inner = StepWaiting("ok", time.time() + 60, reason="approval")
    for depth, (child, part, waits) in enumerate([(ids[0], "team", team), (ids[1], "team/inner", inner)], 1):
        parent = Parent([top, *ids][depth - 1], "team", 1, top, depth, inline=True)
        own = replace(request, execution_id=child, part=part, parent=parent)
        await api.orchestrator.append(child, ExecutionStarted(own, time.time() + 60), waits)
    found = await why(api, top)
    assert found["message"].startswith(
        f"step `team` waits for its execution {ids[0]}: step `inner` waits for its execution {ids[1]}: "
        "step `ok` waits for an approval since"
    )
    assert "(then: fail)" in found["message"]
    assert found["reasons"][0]["reasons"][0]["reasons"][0]["step_id"] == "ok"
    shown = (await api.http.get(f"/api/v1/executions/{ids[1]}")).json()
    assert [one["step_id"] for one in shown["step_executions"]] == ["ok"]
    assert (shown["parent_id"], shown["root_id"], shown["part"], shown["depth"]) == (ids[0], top, "team/inner", 2)


@pytest.mark.parametrize("projected", [False, True])
async def test_answer_and_graph_are_the_same_from_the_log_and_from_the_tables(api: Any, projected: bool) -> None:
    workflow = await api.workflow(
        limits={"max_parallel": 2},
        steps={"each": {**FETCH, "for_each": [1, 2, 3]}, "fetch": FETCH, "join": {"needs": ["each"], "transform": 1}},
    )
    events = [StepExpanded("each", 3), StepScheduled("each", 1, 0), StepScheduled("each", 1, 1), StepQueued("fetch")]
    execution_id = await started(api, workflow, *events)
    await api.orchestrator.append(execution_id, StepCompleted("each", 1, 0), StepScheduled("each", 1, 2))
    if projected:
        await api.project(api.orchestrator.view(execution_id))
    found = await why(api, execution_id)
    assert [one["code"] for one in found["reasons"]] == ["items", "place"]
    assert found["reasons"][0]["message"].startswith(
        "step `each` runs 3 items: 1 of them ended, 2 under way; the first"
    )
    assert [one["item"] for one in found["reasons"][0]["reasons"]] == [1, 2]
    assert found["reasons"][1]["message"].endswith("2 of its steps run at once, and limits.max_parallel is 2")
    graph = (await api.http.get(f"/api/v1/executions/{execution_id}/graph")).json()
    assert [(one["id"], one["status"], one["items"]) for one in graph["nodes"]] == [
        ("each", "running", {"completed": 1, "pending": 2}),
        ("fetch", "pending", None),
        ("join", "pending", None),
    ]
    assert graph["edges"] == [{"from": "each", "to": "join", "status": "pending"}]
    step = (await api.http.get(f"/api/v1/executions/{execution_id}/steps/each?item=0")).json()
    assert [(one["attempt"], one["status"]) for one in step["attempts"]] == [(1, "completed")]


async def test_an_execution_that_has_ended_says_how(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    await api.orchestrator.finish(execution_id)
    found = await why(api, execution_id)
    assert (found["status"], [one["code"] for one in found["reasons"]]) == ("completed", ["ended"])
