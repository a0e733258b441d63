"""Agents that are saved by themselves: from the command line and over HTTP to a real answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from millrace.cli.main import app

INSTRUCTIONS = "Answer briefly."


def saved(millrace: Any, name: str, **fields: Any) -> dict[str, Any]:
    document = {"name": name, "model": "offline:demo", "instructions": INSTRUCTIONS, **fields}
    answer = millrace.http.put(f"/api/v1/agents/{name}", json=document)
    assert answer.status_code in {200, 201}, answer.text
    agent: dict[str, Any] = answer.json()
    return agent


def test_a_workflow_runs_with_the_agent_as_it_was_when_it_started(millrace: Any) -> None:
    saved(millrace, "talker")
    steps = {"ask": {"agent": "helper", "prompt": "Say hello."}}
    outputs = {"said": "${{ steps.ask.output }}"}
    workflow = millrace.save(
        {"name": "uses-talker", "agents": {"helper": {"use": "talker"}}, "steps": steps, "outputs": outputs}
    )
    first = millrace.run(workflow)
    assert first["status"] == "completed", first
    assert isinstance(first["results"]["said"], str)
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    saved(millrace, "talker", output=schema)
    second = millrace.run(workflow)
    assert second["status"] == "completed", second
    assert isinstance(second["results"]["said"]["n"], int)
    again = millrace.http.post(f"/api/v1/executions/{first['id']}/replay", json={})
    assert again.status_code in {200, 202}, again.text
    replayed = millrace.ended(again.json()["execution_id"])
    assert isinstance(replayed["results"]["said"], str)


def test_an_agent_that_runs_alone_answers(millrace: Any) -> None:
    agent = saved(millrace, "soloist")
    answer = millrace.http.post("/api/v1/agents/soloist/invoke?wait=60", json={"prompt": "Hello", "input": {"n": 1}})
    assert answer.status_code == 200, answer.text
    execution = answer.json()
    assert (execution["status"], execution["workflow_id"]) == ("completed", agent["id"])
    assert execution["results"]["answer"]
    assert [step["agent_id"] for step in execution["step_executions"]] == ["soloist"]


def test_agents_from_the_command_line(millrace: Any, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        environment = {"MILLRACE_API_URL": millrace.stack.api_url, "MILLRACE_API_KEY": "acceptance-test-key"}
        result = CliRunner().invoke(app, ["agents", *arguments], env=environment)
        assert result.exit_code == code, result.output
        return str(result.output)

    path = tmp_path / "agent.yaml"
    path.write_text("name: from-file\nllm_provider: offline\nllm_model: demo\ndescription: Of a file.\n")
    assert "from-file version 1 saved" in run("apply", str(path))
    assert "from-file version 1 unchanged" in run("apply", str(path))
    assert "from-file" in run("ls")
    assert json.loads(run("show", "from-file"))["llm_model"] == "demo"
    assert run("invoke", "from-file", "Hello").strip()
    execution = json.loads(run("invoke", "from-file", "Hello", "--input", '{"n": 1}', "--json"))
    assert execution["status"] == "completed"
    assert "no agent" in run("invoke", "nobody", "Hello", code=1)
    path.write_text("name: from-file\nmodel: grok:x\n")
    refused = run("apply", str(path), code=1)
    assert "there is no model provider" in refused
    assert "nothing was saved" in refused
    assert json.loads(run("show", "from-file"))["version"] == 1
