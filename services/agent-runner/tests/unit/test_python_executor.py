import asyncio
import threading
from typing import Any

import pytest

from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure, ThreadsHeld
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads

BUILT_IN = "millrace_agent_runner.functions"


@pytest.fixture
def executor() -> PythonExecutor:
    return PythonExecutor(Functions(("json", "os.path")), Threads(2))


@pytest.fixture
def call(executor: Any, step_factory: Any, attempt_factory: Any):
    async def perform(name: str, data: object = None, **fields: object) -> object:
        return await executor(attempt_factory(step_factory("python", {"call": name}, data, **fields)))

    return perform


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (f"{BUILT_IN}:echo", {"input": [1, None]}, [1, None]),
        ("echo", {"input": 1}, 1),
        ("fib", {"n": 10}, 55),
        (f"{BUILT_IN}.testing:block", {"seconds": 0, "result": 7}, 7),
        ("json:dumps", {"obj": {"a": 1}}, '{"a": 1}'),
        (f"{BUILT_IN}.testing:sleep", {"seconds": 0, "result": "x"}, "x"),
    ],
)
async def test_calls(call: Any, name: Any, data: Any, expected: Any) -> None:
    assert await call(name, data) == expected


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("os:system", "function_not_allowed", "MILLRACE_PYTHON_MODULES"),
        ("jsonx:dumps", "function_not_allowed", "jsonx"),
        ("subprocess:run", "function_not_allowed", "subprocess"),
        ("json:nope", "function_unknown", 'no public function "nope"'),
        ("json:_default_encoder", "function_unknown", "no public function"),
        ("json:JSONDecoder", "function_unknown", "no public function"),
        ("json:codecs", "function_unknown", "no public function"),
        (f"{BUILT_IN}.nothing:x", "function_unknown", "no module"),
        ("unregistered", "function_unknown", "echo, fib"),
        (f"{BUILT_IN}:current_attempt.x", "function_unknown", "no public function"),
    ],
)
async def test_what_may_not_be_called(call: Any, name: Any, code: Any, words: Any) -> None:
    with pytest.raises(TerminalFailure) as caught:
        await call(name)
    assert (caught.value.category, caught.value.code) == ("input_invalid", code)
    assert words in str(caught.value)


async def test_a_function_that_an_allowed_module_only_imports_is_refused(
    step_factory: Any, attempt_factory: Any
) -> None:
    executor = PythonExecutor(Functions(("functools",)), Threads(1))
    with pytest.raises(TerminalFailure, match='"namedtuple" comes from "collections", which is not allowed'):
        await executor(attempt_factory(step_factory("python", {"call": "functools:namedtuple"})))


@pytest.mark.parametrize("data", [{"m": 1}, {}, {"n": 1, "other": 2}])
async def test_wrong_arguments_are_told_from_a_wrong_function(call: Any, data: Any) -> None:
    with pytest.raises(TerminalFailure, match=r"does not fit .*fib\(n: ") as caught:
        await call("fib", data)
    assert caught.value.code == "arguments_invalid"


async def test_the_users_exception_is_user_code(call: Any) -> None:
    with pytest.raises(TerminalFailure, match="raised RuntimeError: oh") as caught:
        await call(f"{BUILT_IN}.testing:crash", {"message": "oh"})
    assert caught.value.category == "user_code"


async def test_a_type_error_inside_of_a_function_is_user_code(call: Any) -> None:
    with pytest.raises(TerminalFailure, match="raised TypeError") as caught:
        await call("json:dumps", {"obj": {"a": 1}, "cls": 3})
    assert caught.value.category == "user_code"


@pytest.mark.parametrize(("retryable", "kind"), [(True, RetryableFailure), (False, TerminalFailure)])
async def test_a_function_says_how_it_failed(call: Any, retryable: Any, kind: Any) -> None:
    data = {"message": "no", "category": "rate_limit", "retryable": retryable, "retry_after_s": 3}
    with pytest.raises(kind) as caught:
        await call(f"{BUILT_IN}.testing:fail", data)
    assert (caught.value.category, caught.value.retry_after_s) == ("rate_limit", 3)


async def test_fail_goes_by_the_number_of_the_attempt(call: Any) -> None:
    name, data = f"{BUILT_IN}.testing:fail", {"times": 2, "result": "done"}
    with pytest.raises(StepFailure):
        await call(name, data, attempt=2)
    assert await call(name, data, attempt=3) == "done"


async def test_a_function_in_a_thread_knows_its_attempt(executor: Any, step_factory: Any, attempt_factory: Any) -> None:
    seen = {}

    def look() -> None:
        from millrace_agent_runner.functions import current_attempt

        seen["attempt"], seen["thread"] = current_attempt().attempt, threading.current_thread().name

    from millrace_agent_runner.executors.python import Function

    executor.functions._resolved["look"] = Function("look", look, is_async=False)
    await executor(attempt_factory(step_factory("python", {"call": "look"}, attempt=4)))
    assert seen["attempt"] == 4
    assert seen["thread"].startswith("step-")


async def test_a_step_waits_for_a_thread_while_others_hold_them_all() -> None:
    threads, gate = Threads(2), threading.Event()
    stuck = [asyncio.create_task(threads.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    await threads.check()
    ran: list[str] = []
    given_up = asyncio.create_task(threads.run(lambda: ran.append("given up")))
    waiting = asyncio.create_task(threads.run(lambda: ran.append("waiting")))
    await asyncio.sleep(0)
    with pytest.raises(ThreadsHeld, match="all 2 threads are held, and 2 functions wait"):
        await threads.check()
    for task in (*stuck, given_up):  # cancelling the wait does not end the thread
        task.cancel()
    await asyncio.wait([*stuck, given_up])
    assert not waiting.done()
    gate.set()
    async with asyncio.timeout(60):
        await waiting
    assert ran == ["waiting"], "what nobody waits for any more is not run"


async def test_exit_in_a_function_does_not_end_the_runner(
    executor: Any, step_factory: Any, attempt_factory: Any
) -> None:
    from millrace_agent_runner.executors.python import Function

    def leave() -> None:
        raise SystemExit(1)

    executor.functions._resolved["leave"] = Function("leave", leave, is_async=False)
    with pytest.raises(TerminalFailure) as caught:
        await executor(attempt_factory(step_factory("python", {"call": "leave"})))
    assert caught.value.category == "user_code"
