"""What is answered of an execution whose log was removed, however much else is still there."""

from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from millrace_api.domain.filters import sequence_cursor
from millrace_shared import subjects

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"Authorization": "Bearer test-bootstrap-key"}


@pytest.mark.parametrize("name", [None, "a name"])
@pytest.mark.parametrize("swept", [False, True])
async def test_an_expired_log_is_said_to_be_so(api: Any, name: str | None, *, swept: bool) -> None:
    execution_id = await api.execution(await api.workflow(), **({} if name is None else {"execution_name": name}))
    await api.orchestrator.start(execution_id)
    await api.orchestrator.finish(execution_id)
    await api.project(api.orchestrator.view(execution_id))
    path = f"/api/v1/executions/{execution_id}"
    assert (await api.http.get(f"{path}/events")).status_code == 200
    purge = api.orchestrator.connection.jetstream_api
    await purge("STREAM.PURGE.EVENTS", {"filter": subjects.log(execution_id)})
    if swept:
        await purge("STREAM.PURGE.INBOX", {"filter": subjects.start(execution_id)})
    for query in ("", f"?cursor={sequence_cursor(1)}"):
        answer = await api.http.get(f"{path}/events{query}")
        assert (answer.status_code, answer.json()["code"]) == (410, "log_expired")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{api.ws}/ws/executions/{execution_id}", additional_headers=KEY)
    assert refused.value.response.status_code == 410
    answer = await api.http.post(f"{path}/pause", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "execution_already_finished")
    assert (await api.http.get(path)).json()["status"] == "completed"
