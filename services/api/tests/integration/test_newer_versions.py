"""What a later version wrote is told from what is broken: a server that is too old for it says so, and has no 500."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import decode_request
from millrace_shared.messages import ErrorInfo, ExecutionFinished, ExecutionStarted

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"Authorization": "Bearer test-bootstrap-key"}
LATER = b'{"v":99,"execution_id":"x","version":2,"at":1.0,"events":[{"type":"execution.finished","dream":1}]}'
DEFINITION = b'{"name":"later","steps":{"greet":{"transform":1}},"dreams":true}'
HASH = "f" * 64


async def add_later(api: Any, execution_id: str) -> None:
    """Append what a later version logs."""
    await api.orchestrator.publisher.publish(Outgoing(subjects.log(execution_id), LATER))


@pytest.fixture
def with_a_later_log(api: Any) -> Callable[[], Awaitable[str]]:
    async def make() -> str:
        execution_id: str = await api.execution(await api.workflow())
        await api.orchestrator.start(execution_id)
        await add_later(api, execution_id)
        return execution_id

    return make


@pytest.fixture
def with_a_later_definition(api: Any) -> Callable[[], Awaitable[str]]:
    async def make() -> str:
        await api.orchestrator.publisher.publish(Outgoing(subjects.definition(HASH), DEFINITION))
        execution_id: str = await api.execution(await api.workflow())
        stored = await read_last(api.orchestrator.connection, "INBOX", subjects.start(execution_id))
        assert stored is not None
        request = msgspec.structs.replace(decode_request(stored.payload), definition=HASH)
        await api.orchestrator.append(execution_id, ExecutionStarted(request, 4e9))
        return execution_id

    return make


def says_what_to_do(answer: Any) -> bool:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "upgrade_needed"), answer.text
    assert answer.headers["retry-after"]
    return "upgrade" in problem["detail"]


@pytest.mark.parametrize("path", ["", "/timeline", "/events", "/steps/greet", "/why"])
async def test_reading_a_log_of_a_later_version(
    api: Any, with_a_later_log: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    execution_id = await with_a_later_log()
    caplog.set_level(logging.WARNING)
    assert says_what_to_do(await api.http.get(f"/api/v1/executions/{execution_id}{path}"))
    assert "log version 99 is newer" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("path", ["", "/timeline", "/steps/greet", "/why"])
async def test_reading_an_execution_of_a_later_definition(api: Any, with_a_later_definition: Any, path: str) -> None:
    assert says_what_to_do(await api.http.get(f"/api/v1/executions/{await with_a_later_definition()}{path}"))


@pytest.mark.parametrize("what", ["pause", "retry", "replay"])
async def test_acting_on_a_log_of_a_later_version(api: Any, with_a_later_log: Any, what: str) -> None:
    execution_id = await with_a_later_log()
    assert says_what_to_do(await api.http.post(f"/api/v1/executions/{execution_id}/{what}"))


async def save_later(api: Any, workflow: str) -> None:
    """Add the version of a workflow that a later version saves."""
    await api.database.execute(
        "INSERT INTO config.workflow_versions "
        "(workflow_id, version, content_hash, definition, source, source_format, created_by) "
        "SELECT workflow_id, 2, $2, $3, $3, source_format, created_by FROM config.workflow_versions "
        "WHERE workflow_id = (SELECT id FROM config.workflows WHERE name = $1)",
        workflow,
        HASH,
        DEFINITION.decode(),
    )
    await api.database.execute("UPDATE config.workflows SET latest_version = 2 WHERE name = $1", workflow)


async def test_starting_a_workflow_that_a_later_version_saved(api: Any) -> None:
    workflow = await api.workflow()
    await save_later(api, workflow)
    assert says_what_to_do(await api.http.post("/api/v1/executions", json={"workflow": workflow}))
    trigger = {"name": api.fresh("cron"), "kind": "cron", "workflow": workflow, "cron": "0 0 * * *"}
    assert says_what_to_do(await api.http.post("/api/v1/triggers", json=trigger))


async def test_an_execution_is_accepted_although_its_end_cannot_be_read(api: Any, eventually: Any) -> None:
    body = {"workflow": await api.workflow()}
    waiting = asyncio.create_task(api.http.post("/api/v1/executions?wait=20", json=body))

    async def requested() -> str | None:
        found = read_subject(api.orchestrator.connection, "INBOX", "in.*.*.start")
        requests = [decode_request(stored.payload) async for stored in found]
        return next((one.execution_id for one in requests if one.workflow_name == body["workflow"]), None)

    execution_id = await eventually(requested)
    await add_later(api, execution_id)
    answer = await waiting
    assert (answer.status_code, answer.json()["execution_id"]) == (202, execution_id)


async def test_of_many_the_others_are_retried(api: Any) -> None:
    workflow = await api.workflow()
    ids = []
    for _ in range(2):
        ids.append(await api.execution(workflow))
        await api.orchestrator.start(ids[-1])
        error = ErrorInfo("broken", "tool_error", "it broke")
        await api.orchestrator.append(ids[-1], ExecutionFinished("failed", error=error))
        await api.project(api.orchestrator.view(ids[-1]))
    await add_later(api, ids[0])
    outcome = (await api.http.post("/api/v1/executions/bulk/retry", json={"workflow": workflow})).json()
    assert [one["execution_id"] for one in outcome["done"]] == [ids[1]]
    assert [(one["execution_id"], one["code"]) for one in outcome["refused"]] == [(ids[0], "upgrade_needed")]


async def test_a_feed_ends_with_the_reason(api: Any, with_a_later_log: Any) -> None:
    async with connect(f"{api.ws}/ws/executions/{await with_a_later_log()}", additional_headers=KEY) as socket:
        with pytest.raises(ConnectionClosedError) as ended:
            async for _ in socket:
                pass
    assert ended.value.rcvd is not None
    assert (ended.value.rcvd.code, "upgrade" in ended.value.rcvd.reason) == (1013, True)


async def test_a_feed_of_a_step_is_refused_with_the_reason(api: Any) -> None:
    await api.orchestrator.publisher.publish(Outgoing(subjects.definition(HASH), DEFINITION))
    workflow = await api.workflow()
    await save_later(api, workflow)
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{api.ws}/ws/workflows/{workflow}/step/greet", additional_headers=KEY)
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body or b"{}")["code"] == "upgrade_needed"
