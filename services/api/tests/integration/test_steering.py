"""Steering over HTTP, with no orchestrator but what the test plays: what is sent, and what its answer leads to."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from millrace_api.adapters import steering
from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_subject
from millrace_shared.codec import decode_inbox
from millrace_shared.messages import (
    ContinueRequest,
    ExecutionFinished,
    ExecutionPaused,
    ExecutionResumed,
    InboxMessage,
    PauseRequest,
    ResumeRequest,
    SignalReceived,
    SignalRequest,
    StepCompleted,
    StepScheduled,
    StepWaiting,
    VerdictRequest,
)
from millrace_shared.values import Payload

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = {
    "greet": {"transform": 1},
    "ok": {"approval": {"message": "?", "form": {"type": "object", "required": ["n"]}}},
    "paid": {"wait": {"signal": "payment"}},
}


async def running(api: Any, **fields: Any) -> str:
    execution_id: str = await api.execution(await api.workflow(steps=STEPS), **fields)
    await api.orchestrator.start(execution_id)
    return execution_id


async def messages(api: Any, execution_id: str) -> AsyncIterator[InboxMessage]:
    """Yield what comes to an execution, as an orchestrator gets it, until the test stops reading."""
    sequence = 1
    async with asyncio.timeout(30):
        while True:
            subject = subjects.inbox(execution_id)
            async for stored in read_subject(api.orchestrator.connection, "INBOX", subject, sequence):
                sequence = stored.sequence + 1
                yield decode_inbox(stored.payload)
            await asyncio.sleep(0.01)


async def asked(api: Any, execution_id: str, kind: type) -> Any:
    """Return the next message of a kind."""
    async for message in messages(api, execution_id):
        if isinstance(message, kind):
            return message
    return None


def post(api: Any, execution_id: str, path: str, **body: Any) -> Awaitable[Any]:
    return asyncio.ensure_future(api.http.post(f"/api/v1/executions/{execution_id}/{path}", json=body))


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_pause_answers_once_the_log_shows_it(api: Any) -> None:
    execution_id = await running(api)
    answer = post(api, execution_id, "pause", reason="look")
    message = await asked(api, execution_id, PauseRequest)
    assert (message.reason, message.requested_by) == ("look", "api-key:bootstrap")
    assert not answer.done()
    await api.orchestrator.append(execution_id, ExecutionPaused(time.time() + 60, message.id, requested_by="me"))
    assert (await answer).status_code == 200
    assert (await answer).json() == {"execution_id": execution_id, "status": "paused"}
    again = await post(api, execution_id, "pause")
    assert problem(again) == (409, "execution_already_paused")


async def test_of_two_who_pause_at_once_one_is_told_that_it_is_paused_already(api: Any) -> None:
    execution_id = await running(api)
    answer = post(api, execution_id, "pause")
    await asked(api, execution_id, PauseRequest)
    await api.orchestrator.append(execution_id, ExecutionPaused(time.time() + 60, "of somebody else"))
    assert problem(await answer) == (409, "execution_already_paused")


async def test_resume_names_the_pause_and_is_refused_without_one(api: Any) -> None:
    execution_id = await running(api)
    assert problem(await post(api, execution_id, "resume")) == (409, "execution_not_paused")
    await api.orchestrator.append(execution_id, ExecutionPaused(time.time() + 60, "p1"))
    answer = post(api, execution_id, "resume")
    message = await asked(api, execution_id, ResumeRequest)
    assert message.of == "p1"
    await api.orchestrator.append(execution_id, ExecutionResumed(time.time() + 60, message.id))
    assert (await answer).json() == {"execution_id": execution_id, "status": "running"}


async def test_what_takes_longer_is_durable_and_on_its_way(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "WAIT_S", 0.1)
    execution_id = await api.execution(await api.workflow(steps=STEPS))  # not begun: there is no log at all
    answer = await post(api, execution_id, "pause")
    assert (answer.status_code, answer.json()["status"]) == (202, "pausing")
    assert await asked(api, execution_id, PauseRequest) is not None
    signal = await post(api, execution_id, "signal", name="payment", data={"n": 1})
    assert (signal.status_code, signal.json()["status"]) == (202, "sent")


async def test_the_end_comes_first(api: Any) -> None:
    execution_id = await running(api)
    answer = post(api, execution_id, "pause")
    await asked(api, execution_id, PauseRequest)
    await api.orchestrator.append(execution_id, ExecutionFinished("completed"))
    assert problem(await answer) == (409, "execution_already_finished")
    for path in ("pause", "resume"):
        assert problem(await post(api, execution_id, path)) == (409, "execution_already_finished")
    late = await post(api, execution_id, "signal", name="payment")
    assert problem(late) == (409, "execution_already_finished")


async def test_a_signal_with_an_id_is_sent_once(api: Any) -> None:
    execution_id = await running(api)
    answer = post(api, execution_id, "signal", name="payment", data={"n": 1}, id="invoice-7")
    message = await asked(api, execution_id, SignalRequest)
    assert (message.id, message.name, message.data) == ("invoice-7", "payment", Payload({"n": 1}))
    await api.orchestrator.append(execution_id, SignalReceived(message.id, message.name, message.data))
    assert (await answer).status_code == 200
    again = await post(api, execution_id, "signal", name="payment", data={"n": 1}, id="invoice-7")
    assert again.json() == (await answer).json()
    stored = [
        one
        async for one in read_subject(api.orchestrator.connection, "INBOX", subjects.inbox(execution_id))
        if isinstance(decode_inbox(one.payload), SignalRequest)
    ]
    assert len(stored) == 1


async def test_an_unknown_signal_changes_nothing(api: Any) -> None:
    execution_id = await running(api)
    answer = await post(api, execution_id, "signal", name="paymnet")
    assert problem(answer) == (404, "signal_unknown")
    assert 'did you mean "payment"?' in answer.json()["detail"]
    subject = subjects.inbox(execution_id)
    assert [one async for one in read_subject(api.orchestrator.connection, "INBOX", subject)] == []


async def test_large_data_of_a_signal_goes_by_claim_check(api: Any) -> None:
    execution_id = await running(api)
    answer = post(api, execution_id, "signal", name="payment", data="x" * 100_000)
    message = await asked(api, execution_id, SignalRequest)
    assert message.data.data is None
    assert set(message.data.refs) == {""}
    await api.orchestrator.append(execution_id, SignalReceived(message.id, message.name, message.data))
    assert (await answer).status_code == 200


async def test_of_two_verdicts_the_first_counts(api: Any) -> None:
    execution_id = await running(api)
    await api.orchestrator.append(execution_id, StepWaiting("ok", time.time() + 60, reason="approval"))
    approving = post(api, execution_id, "steps/ok/approve", data={"n": 3}, note="fine")
    message = await asked(api, execution_id, VerdictRequest)
    assert (message.approved, message.note, message.data) == (True, "fine", Payload({"n": 3}))
    rejecting = post(api, execution_id, "steps/ok/reject")
    async for other in messages(api, execution_id):
        if isinstance(other, VerdictRequest) and not other.approved:
            break
    output = {"approved": True, "by": "me", "decision_id": message.id}
    await api.orchestrator.append(execution_id, StepCompleted("ok", output=Payload(output)))
    assert ((await approving).status_code, (await approving).json()["status"]) == (200, "approved")
    assert problem(await rejecting) == (409, "already_decided")
    assert problem(await post(api, execution_id, "steps/ok/approve", data={"n": 3})) == (409, "already_decided")


async def test_a_verdict_fits_the_step_and_its_form(api: Any) -> None:
    execution_id = await running(api)
    assert problem(await post(api, execution_id, "steps/ok/approve")) == (409, "step_not_waiting")
    await api.orchestrator.append(execution_id, StepWaiting("ok", time.time() + 60, reason="approval"))
    incomplete = await post(api, execution_id, "steps/ok/approve", data={"m": 3})
    assert problem(incomplete) == (422, "form_invalid")
    assert incomplete.json()["errors"][0]["loc"] == ["body", "data"]
    assert problem(await post(api, execution_id, "steps/greet/approve")) == (409, "step_not_waiting")
    unknown = await post(api, execution_id, "steps/okk/approve")
    assert problem(unknown) == (404, "step_not_found")
    assert 'did you mean "ok"?' in unknown.json()["detail"]
    assert problem(await post(api, execution_id, "steps/ok/approve", by="me")) == (422, "request_invalid")


async def test_a_step_at_a_breakpoint_goes_on_with_an_edited_input(api: Any) -> None:
    execution_id = await running(api, breakpoints=["greet"])
    held = StepWaiting("greet", time.time() + 60, reason="breakpoint", input=Payload({"n": 1}))
    await api.orchestrator.append(execution_id, held)
    answer = post(api, execution_id, "steps/greet/continue", input={"n": 2})
    message = await asked(api, execution_id, ContinueRequest)
    assert (message.edited, message.input) == (True, Payload({"n": 2}))
    await api.orchestrator.append(execution_id, StepScheduled("greet", 1, input=message.input))
    assert ((await answer).status_code, (await answer).json()["status"]) == (200, "continued")
    assert problem(await post(api, execution_id, "steps/greet/continue")) == (409, "step_not_waiting")


@pytest.mark.parametrize("path", ["pause", "resume", "signal", "steps/ok/approve", "steps/ok/continue"])
@pytest.mark.parametrize("execution_id", ["nope", "01890000-0000-7000-8000-000000000000"])
async def test_unknown_executions_are_not_found(api: Any, path: str, execution_id: str) -> None:
    answer = await post(api, execution_id, path, **({"name": "payment"} if path == "signal" else {}))
    assert problem(answer) == (404, "execution_not_found")


async def test_breakpoints_are_sent_with_the_request_and_must_be_steps(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    body = {"workflow": workflow, "breakpoints": ["greet", "paied"]}
    refused = await api.http.post("/api/v1/executions", json=body)
    assert problem(refused) == (422, "request_invalid")
    assert refused.json()["errors"][0]["loc"] == ["body", "breakpoints", 1]
    execution_id = await api.execution(workflow, breakpoints=["*"])
    request = await api.running.adapters.executions.request_of("default", execution_id)
    assert request.breakpoints == ("*",)
