import asyncio
import signal
from typing import Any

import pytest

from millrace.demo.provider import DemoProvider
from millrace_agent_runner.bootstrap import agent_runner
from millrace_agent_runner.settings import RunnerSettings
from millrace_shared import subjects
from millrace_shared.bus.connection import connect
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.codec import decode_fact
from millrace_shared.errors import SettingsInvalid
from millrace_shared.messages import LlmCall

ECHO = {"call": "echo"}
SLEEP = {"call": "millrace_agent_runner.functions.testing:sleep"}


async def done(_attempt: Any) -> str:
    return "done"


async def test_killed_in_the_middle_its_work_is_done_by_another(
    bus: Any, start_runner: Any, start_worker: Any, step_factory: Any
) -> None:
    runner = await start_runner()
    await runner.line("is ready")
    step = step_factory("python", SLEEP, {"seconds": 3600})
    await bus.offer(step)
    await bus.has("TELEMETRY", 1)  # it has begun, and says so
    runner.send(signal.SIGKILL)
    assert await runner.exit_status() == -signal.SIGKILL
    assert await bus.count("INBOX") == 0
    await start_worker(done)
    result = await bus.result_of(step)
    assert (result.output.data, result.attempt, result.runner) == ("done", 1, "runner-1")


async def test_sigterm_drains_and_exits_with_0(bus: Any, start_runner: Any, step_factory: Any) -> None:
    runner = await start_runner(MILLRACE_RUNNER_SLOTS="10")
    await runner.line("is ready")
    step = step_factory("python", SLEEP, {"seconds": 1.0, "result": "ended"})
    await bus.offer(step)
    await bus.has("TELEMETRY", 1)
    waiting = step_factory("python", ECHO, {"input": 1})
    runner.send(signal.SIGTERM)
    await runner.line("is stopping")
    await bus.offer(waiting)
    assert await runner.exit_status() == 0
    assert (await bus.result_of(step)).output.data == "ended"
    await bus.has("WORK", 1)
    assert await bus.count("INBOX") == 1


async def test_a_function_that_never_returns_does_not_keep_the_process(
    bus: Any, start_runner: Any, step_factory: Any
) -> None:
    runner = await start_runner(MILLRACE_RUNNER_GRACE_S="0")
    await runner.line("is ready")
    spec = {"call": "millrace_agent_runner.functions.testing:block"}
    await bus.offer(step_factory("python", spec, {"seconds": 3600}))
    await bus.has("TELEMETRY", 1)
    runner.send(signal.SIGTERM)
    assert await runner.exit_status() == 0


async def test_readyz_follows_the_bus_and_metrics_count(
    bus: Any, start_runner: Any, step_factory: Any, http_get: Any
) -> None:
    runner = await start_runner()
    port = await runner.port()
    await runner.line("is ready")
    step = step_factory("python", ECHO, {"input": 1})
    await bus.offer(step)
    await bus.result_of(step)
    status, body = await http_get(port, "/readyz")
    assert (status, body) == (200, '{"status":"ready","checks":{"nats":"ok","threads":"ok"}}')
    _, text = await http_get(port, "/metrics")
    assert 'millrace_runner_attempts_total{kind="python",outcome="ok"} 1.0' in text
    assert "millrace_runner_slots 32.0" in text
    assert "millrace_runner_results_waiting 0.0" in text


async def test_a_wrong_setting_is_one_line_and_status_1(start_runner: Any) -> None:
    runner = await start_runner(MILLRACE_RUNNER_SLOTS="3", MILLRACE_HTTP_ALLOW="10.0.0.0/77")
    assert await runner.exit_status() == 1
    assert "MILLRACE_RUNNER_SLOTS" in runner.lines[-1]
    assert "MILLRACE_HTTP_ALLOW" in runner.lines[-1]
    assert "Traceback" not in runner.lines[-1]


async def test_every_kind_of_work_through_the_whole_service(
    bus: Any, fresh_nats_url: str, tmp_path: Any, step_factory: Any
) -> None:
    async with DemoProvider() as provider:
        settings = RunnerSettings.load(
            {
                "MILLRACE_NATS_URL": fresh_nats_url,
                "MILLRACE_DATA_DIR": str(tmp_path),
                "MILLRACE_OPENAI_BASE_URL": provider.base_url,
                "MILLRACE_HTTP_ALLOW": "127.0.0.0/8",
            }
        )
        async with agent_runner(settings):
            agent = {"name": "writer", "model": "openai:mock-1", "limits": {"max_iterations": 3}, "tools": ["fib"]}
            steps = [
                step_factory("python", ECHO, {"input": 1}),
                step_factory("http", {}, {"method": "GET", "url": f"http://127.0.0.1:{provider.port}/calls"}),
                step_factory("agent", {"agent": agent, "output": None}, {"prompt": "Hello?"}, item=2),
            ]
            await bus.offer(*steps)
            python, http, said = [await bus.result_of(step) for step in steps]
            await bus.has("WORK", 0)
    assert python.output.data == 1
    assert http.output.data["body"]["total"] >= 0
    assert "Hello?" in said.output.data
    assert (said.usage.calls, said.usage.cost_usd) == (2, None)
    stored = await bus.stored("TELEMETRY", subjects.fact(steps[2].execution_id, "llm_call"))
    calls = [decode_fact(one.payload) for one in stored]
    assert [(call.sequence, call.item) for call in calls if isinstance(call, LlmCall)] == [(1, 2), (2, 2)]
    deltas = await bus.stored("TELEMETRY", subjects.fact(steps[2].execution_id, "token_delta"))
    assert "".join(decode_fact(one.payload).text for one in deltas) == said.output.data


async def test_a_result_waits_for_a_bus_that_is_away(
    fresh_nats: Any, bus_on: Any, tmp_path: Any, step_factory: Any
) -> None:
    settings = RunnerSettings.load({"MILLRACE_NATS_URL": fresh_nats.nats_url, "MILLRACE_DATA_DIR": str(tmp_path)})
    connection = await connect(fresh_nats.nats_url, "test")
    await ensure_streams(connection)
    bus = bus_on(connection)

    async def reconnected() -> bool:
        return bool(connection.is_connected)

    async with agent_runner(settings):
        step = step_factory("python", SLEEP, {"seconds": 1.0, "result": "kept"})
        await bus.offer(step)
        await bus.has("TELEMETRY", 1)
        await asyncio.to_thread(fresh_nats.kill, "nats")
        await asyncio.to_thread(fresh_nats.wait_ready, "nats")
        await bus.eventually(reconnected, "the connection")
        assert (await bus.result_of(step)).output.data == "kept"
        await bus.has("WORK", 0)
    await connection.close()


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(SettingsInvalid, match="MILLRACE_RUNNER_SLOTS"):
        RunnerSettings.load({"MILLRACE_RUNNER_SLOTS": "many"})
    settings = RunnerSettings.load({"MILLRACE_PYTHON_MODULES": "acme.jobs, b", "MILLRACE_HTTP_ALLOW": "10.0.0.0/8,a"})
    assert settings.module_prefixes == ("acme.jobs", "b")
    assert settings.allowed.hosts == frozenset({"a"})
