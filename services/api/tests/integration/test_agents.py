"""Agents that are saved by themselves: their versions, what uses them, and running one alone."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last
from millrace_shared.codec import decode_request
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.messages import StartRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "offline:demo"


async def agent(api: Any, **fields: Any) -> dict[str, Any]:
    """Save an agent with a name of its own; return it."""
    document = {"name": api.fresh("agent"), "model": MODEL, **fields}
    answer = await api.http.post("/api/v1/agents", json=document)
    assert answer.status_code == 201, answer.text
    saved: dict[str, Any] = answer.json()
    return saved


async def using(api: Any, reference: str, **changes: Any) -> str:
    """Save a workflow that uses an agent; return its name."""
    steps = {"ask": {"agent": "helper", "prompt": "hello"}}
    name: str = await api.workflow(inputs={}, agents={"helper": {"use": reference}}, steps=steps, **changes)
    return name


async def request_of(api: Any, execution_id: str) -> StartRequest:
    stored = await read_last(api.orchestrator.connection, "INBOX", subjects.start(execution_id))
    assert stored is not None
    request = decode_request(stored.payload)
    assert isinstance(request, StartRequest)
    return request


async def definition_of(api: Any, request: StartRequest) -> WorkflowDefinition:
    stored = await read_last(api.orchestrator.connection, "DEFINITIONS", subjects.definition(request.definition))
    assert stored is not None
    return WorkflowDefinition.model_validate_json(stored.payload)


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_an_agent_is_shown_in_the_words_of_the_contract(api: Any) -> None:
    document = {
        "name": api.fresh("agent"),
        "agent_type": "react",
        "llm_provider": "offline",
        "llm_model": "demo",
        "temperature": 0.5,
        "tools": ["http.get"],
        "max_iterations": 4,
        "streaming_enabled": False,
        "instructions": "Be brief.",
        "fallback_models": ["offline:other"],
        "timeout": "30s",
        "output": {"type": "object"},
        "description": "Answers.",
    }
    answer = await api.http.post("/api/v1/agents", json=document)
    assert answer.status_code == 201
    saved = answer.json()
    assert answer.headers["location"] == f"/api/v1/agents/{saved['id']}"
    expected = document | {"tools": [{"name": "http.get", "config": {}}], "timeout": 30.0, "version": 1}
    assert {key: saved[key] for key in expected} == expected
    assert saved["definition"]["model"] == "offline:demo"
    shown = (await api.http.get(f"/api/v1/agents/{saved['name']}")).json()
    assert shown == {key: value for key, value in saved.items() if key != "warnings"}
    listed = (await api.http.get("/api/v1/agents", params={"name": saved["name"]})).json()
    assert [one["id"] for one in listed["items"]] == [saved["id"]]
    assert "source" not in listed["items"][0]


async def test_versions_never_change_and_the_same_agent_makes_none(api: Any) -> None:
    saved = await agent(api, temperature=0.1)
    path = f"/api/v1/agents/{saved['name']}"
    same = await api.http.put(path, content=f"temperature: 0.1\nmodel: {MODEL}\nname: {saved['name']}\n")
    assert (same.status_code, same.json()["version"]) == (200, 1)
    newer = await api.http.put(path, json={"name": saved["name"], "model": MODEL, "temperature": 0.2})
    assert (newer.status_code, newer.json()["version"]) == (201, 2)
    versions = (await api.http.get(f"{path}/versions")).json()
    assert [one["version"] for one in versions["items"]] == [2, 1]
    assert (await api.http.get(f"{path}/versions/1")).json()["temperature"] == 0.1
    assert problem(await api.http.get(f"{path}/versions/3")) == (404, "agent_version_not_found")
    for statement in ("UPDATE config.agent_versions SET source = ''", "DELETE FROM config.agent_versions"):
        with pytest.raises(asyncpg.RaiseError, match="never changes"):
            await api.database.execute(statement)


async def test_refusals_name_what_is_wrong(api: Any) -> None:
    saved = await agent(api)
    wrong = await api.http.post("/api/v1/agents", content="name: helper\nmodel: grok:x\ntempreture: 1\n")
    assert problem(wrong) == (422, "agent_invalid")
    assert [(one["loc"], one["line"]) for one in wrong.json()["errors"]] == [("model", 2), ("tempreture", 3)]
    assert wrong.json()["errors"][0]["suggestion"] == 'did you mean "groq"?'
    assert problem(await api.http.post("/api/v1/agents", json={"name": saved["name"], "model": MODEL})) == (
        409,
        "agent_exists",
    )
    other = await api.http.put(f"/api/v1/agents/{saved['id']}", json={"name": "other", "model": MODEL})
    assert problem(other) == (409, "agent_name_mismatch")
    assert problem(await api.http.put("/api/v1/agents/nobody", json={"name": "other", "model": MODEL})) == (
        404,
        "agent_not_found",
    )
    assert problem(await api.http.get("/api/v1/agents/nobody")) == (404, "agent_not_found")
    assert problem(await api.http.delete("/api/v1/agents/nobody")) == (404, "agent_not_found")
    checked = await api.http.post("/api/v1/agents/validate", json={"name": "fresh-one", "model": MODEL})
    assert checked.json()["valid"] is True
    assert problem(await api.http.get("/api/v1/agents/fresh-one")) == (404, "agent_not_found")


async def test_a_workflow_is_refused_that_uses_an_agent_that_is_not_there(api: Any) -> None:
    saved = await agent(api)
    steps = {"ask": {"agent": "helper", "prompt": "hello"}}
    for reference, expected in (
        (saved["name"] + "x", "there is no agent"),
        (f"{saved['name']}@2", "has no version 2"),
    ):
        document = {"name": api.fresh("w"), "agents": {"helper": {"use": reference}}, "steps": steps}
        answer = await api.http.post("/api/v1/workflows", json=document)
        assert problem(answer) == (422, "workflow_invalid")
        [mistake] = answer.json()["errors"]
        assert mistake["loc"] == "agents.helper.use"
        assert expected in mistake["msg"]
        if reference.endswith("x"):
            assert saved["name"] in mistake["suggestion"]


async def test_an_execution_has_the_agents_in_place_as_they_are_when_it_starts(api: Any) -> None:
    tool = {"name": "http.get", "config": {"hosts": ["a.test"], "headers": {"X": "${{ secrets.token }}"}}}
    saved = await agent(api, temperature=0.1, tools=[tool])
    latest, pinned = await using(api, saved["name"]), await using(api, f"{saved['name']}@1")
    one = await request_of(api, await api.execution(latest))
    first = await definition_of(api, one)
    assert first.agents["helper"].temperature == 0.1
    assert first.secrets == ("token",)
    workflow = (await api.http.get(f"/api/v1/workflows/{latest}")).json()
    assert workflow["content_hash"] != one.definition
    assert workflow["definition"]["agents"] == {"helper": {"use": saved["name"]}}

    changed = {"name": saved["name"], "model": MODEL, "temperature": 0.9}
    assert (await api.http.put(f"/api/v1/agents/{saved['name']}", json=changed)).status_code == 201
    second = await definition_of(api, await request_of(api, await api.execution(latest)))
    assert second.agents["helper"].temperature == 0.9
    assert second.secrets == ()
    still = await definition_of(api, await request_of(api, await api.execution(pinned)))
    assert still.agents == first.agents
    shown = (await api.http.get(f"/api/v1/executions/{one.execution_id}")).json()
    assert [step["step_id"] for step in shown["step_executions"]] == ["ask"]


async def test_a_workflow_that_is_used_has_its_agents_in_place_too(api: Any) -> None:
    saved = await agent(api, temperature=0.3)
    leaf = await using(api, saved["name"])
    top = await api.workflow(inputs={}, steps={"call": {"workflow": leaf}})
    request = await request_of(api, await api.execution(top))
    stored = await read_last(
        api.orchestrator.connection, "DEFINITIONS", subjects.definition(request.uses[leaf].definition)
    )
    assert stored is not None
    assert WorkflowDefinition.model_validate_json(stored.payload).agents["helper"].temperature == 0.3


async def test_nothing_starts_with_an_agent_that_is_archived(api: Any) -> None:
    saved = await agent(api)
    workflow = await using(api, saved["name"])
    await api.execution(workflow)
    assert (await api.http.delete(f"/api/v1/agents/{saved['name']}")).status_code == 204
    refused = await api.http.post("/api/v1/executions", json={"workflow": workflow})
    assert problem(refused) == (409, "agent_archived")
    assert "agents.helper.use" in refused.json()["detail"]
    alone = await api.http.post(f"/api/v1/agents/{saved['name']}/invoke", json={"prompt": "hello"})
    assert problem(alone) == (409, "agent_archived")
    assert (await api.http.get("/api/v1/agents", params={"name": saved["name"]})).json()["items"] == []
    revived = await api.http.put(f"/api/v1/agents/{saved['name']}", json={"name": saved["name"], "model": MODEL})
    assert (revived.status_code, revived.json()["archived_at"]) == (200, None)
    await api.execution(workflow)


async def test_an_agent_runs_alone_as_an_execution_of_one_step(api: Any) -> None:
    saved = await agent(api, instructions="Be brief.")
    body = {"prompt": "What is this?", "input": {"a": [1]}, "labels": {"team": "x"}, "priority": "high"}
    answer = await api.http.post(f"/api/v1/agents/{saved['name']}/invoke", json=body)
    assert answer.status_code == 202, answer.text
    request = await request_of(api, answer.json()["execution_id"])
    assert (request.workflow_id, request.workflow_name, request.workflow_version) == (saved["id"], saved["name"], 1)
    assert request.input.data == {"prompt": "What is this?", "input": {"a": [1]}}
    assert (request.labels, request.priority) == ({"team": "x"}, "high")
    definition = await definition_of(api, request)
    assert definition.agents[saved["name"]].instructions == "Be brief."
    assert set(definition.inputs) == {"prompt", "input"}
    plain = await api.http.post(f"/api/v1/agents/{saved['id']}/invoke", json={"prompt": "Hello"})
    made = await definition_of(api, await request_of(api, plain.json()["execution_id"]))
    assert set(made.inputs) == {"prompt"}


async def test_a_named_invocation_is_started_once_whatever_becomes_of_the_agent(api: Any) -> None:
    saved = await agent(api)
    path = f"/api/v1/agents/{saved['name']}"
    body = {"prompt": "Hello", "execution_name": "once"}
    first = await api.http.post(f"{path}/invoke", json=body)
    await api.http.put(path, json={"name": saved["name"], "model": MODEL, "temperature": 1})
    again = await api.http.post(f"{path}/invoke", json=body)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["execution_id"] == first.json()["execution_id"]
    for different in ({"prompt": "Bye"}, {"version": 2}, {"input": 1}):
        other = await api.http.post(f"{path}/invoke", json=body | different)
        assert problem(other) == (409, "execution_name_conflict")


@pytest.mark.parametrize("body", [{}, {"prompt": 7}, {"prompt": "x", "other": 1}, {"prompt": "x", "version": 0}])
async def test_an_invocation_that_is_wrong_is_refused(api: Any, body: dict[str, Any]) -> None:
    saved = await agent(api)
    answer = await api.http.post(f"/api/v1/agents/{saved['name']}/invoke", json=body)
    assert problem(answer) == (422, "request_invalid")


async def test_agents_need_a_key(api: Any) -> None:
    for method, path in (("GET", "agents"), ("POST", "agents/validate"), ("POST", "agents/a/invoke")):
        answer = await api.http.request(method, f"/api/v1/{path}", headers={"Authorization": "Bearer wrong"})
        assert problem(answer) == (401, "unauthorized")
