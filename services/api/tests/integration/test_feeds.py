"""The feed of a workflow outlives what it cannot read."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect

from millrace_shared import subjects
from millrace_shared.ids import new_id
from millrace_shared.messages import LOG_VERSION

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"Authorization": "Bearer test-bootstrap-key"}


@pytest.mark.parametrize("version", [LOG_VERSION + 1, "none"], ids=["later", "unreadable"])
async def test_a_transition_that_cannot_be_read_silences_no_feed(api: Any, version: Any) -> None:
    workflow = await api.workflow()
    execution_id = await api.execution(workflow)
    async with connect(f"{api.ws}/ws/workflows/{workflow}", additional_headers=KEY) as socket:
        other = {"v": version, "execution_id": new_id(), "version": 1, "at": 0.0, "events": []}
        api.orchestrator.connection.send(subjects.live(other["execution_id"]), msgspec.json.encode(other))
        await api.orchestrator.start(execution_id)
        async with asyncio.timeout(60):
            message = json.loads(await socket.recv())
    assert (message["event"], message["data"]["execution_id"]) == ("workflow_started", execution_id)
