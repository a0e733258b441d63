import time
from typing import Any

import pytest

from millrace_agent_runner.domain.outcome import error_of
from millrace_agent_runner.domain.perform import Performer
from millrace_agent_runner.domain.poison import result_for_poison
from millrace_agent_runner.domain.secrets import environment_secrets, put_in, scrub_value
from millrace_agent_runner.errors import RetryableFailure, TerminalFailure
from millrace_shared.blobs import VALUE_BYTES_MAX, Blobs
from millrace_shared.errors import BusUnavailable, ValueTooLarge
from millrace_shared.ids import new_id
from millrace_shared.messages import Usage
from millrace_shared.values import Payload

SECRETS = environment_secrets({"MILLRACE_SECRET_API_TOKEN": "hunter2-hunter2"})


class Memory:
    """A cache that keeps for ever."""

    def __init__(self) -> None:
        self.kept: dict[str, Payload] = {}

    async def find(self, step: Any) -> Payload | None:
        return self.kept.get(step.cache)

    def keep(self, step: Any, output: Payload) -> None:
        self.kept[step.cache] = output


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def blobs(tmp_path: Any) -> Blobs:
    return Blobs(f"file://{tmp_path}/blobs")


@pytest.fixture
def perform(blobs: Any, memory: Memory, step_factory: Any):
    async def run(executor: Any, **fields: Any) -> Payload:
        performer = Performer({"python": executor}, blobs, memory, SECRETS, "runner-1")
        return await performer.perform(performer.open(step_factory(**fields), time.time()))

    return run


async def test_the_output_is_checked_by_the_steps_schema(perform: Any) -> None:
    async def executor(_: Any) -> Any:
        return {"score": "high"}

    schema = {"type": "object", "properties": {"score": {"type": "number"}}}
    with pytest.raises(TerminalFailure, match=r"output\.score: 'high' is not of type 'number'") as caught:
        await perform(executor, spec={"output": schema})
    assert caught.value.category == "invalid_output"
    assert (await perform(executor, spec={"output": {"type": "object"}})).data == {"score": "high"}


async def test_a_schema_never_makes_the_runner_fetch_anything(perform: Any) -> None:
    async def executor(_: Any) -> Any:
        return 1

    with pytest.raises(TerminalFailure) as caught:
        await perform(executor, spec={"output": {"$ref": "http://127.0.0.1:1/schema"}})
    assert caught.value.code == "schema_invalid"


async def test_large_values_go_by_claim_check_both_ways(perform: Any, blobs: Any) -> None:
    text = "x" * 100_000
    reference = await blobs.put("default", f'"{text}"'.encode())

    async def executor(attempt: Any) -> Any:
        assert attempt.input == {"text": text}
        return attempt.input

    payload = await perform(executor, input=Payload(data={"text": None}, refs={"/text": reference}))
    assert payload.data is None
    assert await blobs.unpack("default", payload) == {"text": text}


async def test_an_output_over_the_limit_says_what_to_do(perform: Any) -> None:
    async def executor(_: Any) -> Any:
        return "x" * (VALUE_BYTES_MAX + 1)

    with pytest.raises(ValueTooLarge) as caught:
        await perform(executor)
    info = error_of(caught.value, ())
    assert (info.category, info.retryable) == ("value_too_large", False)
    assert "limit is 64 MiB" in info.message
    assert "reference" in info.message


@pytest.mark.parametrize("output", [object(), iter({1, 2}), {("a", 1): 2}, print])
async def test_an_output_that_is_not_json_is_invalid_output(perform: Any, output: Any) -> None:
    async def executor(_: Any) -> Any:
        return output

    with pytest.raises(Exception) as caught:
        await perform(executor)
    assert error_of(caught.value, ()).category == "invalid_output"


async def test_secrets_go_in_and_do_not_come_out(perform: Any) -> None:
    async def executor(attempt: Any) -> Any:
        assert attempt.input["headers"]["Authorization"] == "Bearer hunter2-hunter2"
        return {"echo": attempt.input}

    payload = await perform(
        executor,
        input=Payload(data={"headers": {"Authorization": None}}),
        secrets={"/headers/Authorization": ("Bearer ", "api_token", "")},
    )
    assert payload.data == {"echo": {"headers": {"Authorization": "Bearer [secret]"}}}


async def test_a_missing_secret_names_the_variable(perform: Any) -> None:
    with pytest.raises(TerminalFailure, match="MILLRACE_SECRET_OTHER_ONE"):
        await perform(None, input=Payload(data={"a": None}), secrets={"/a": ("", "other-one", "")})


def test_only_places_named_beside_the_data_get_secrets() -> None:
    data = {"a": "${{ secrets.api_token }}", "list": [{"x/y": None}]}
    filled, used = put_in(data, {"/list/0/x~1y": ("", "api_token", "!")}, SECRETS)
    assert filled == {"a": "${{ secrets.api_token }}", "list": [{"x/y": "hunter2-hunter2!"}]}
    assert data["list"] == [{"x/y": None}]
    assert used == ("hunter2-hunter2",)


def test_errors_show_no_secret() -> None:
    failure = RetryableFailure("said hunter2-hunter2", category="server_error", detail={"got": ["hunter2-hunter2"]})
    info = error_of(failure, ("hunter2-hunter2",))
    assert info.message == "said [secret]"
    assert info.detail == {"got": ["[secret]"]}
    assert scrub_value({"hunter2-hunter2": 1}, ("hunter2-hunter2",)) == {"[secret]": 1}


@pytest.mark.parametrize(
    ("error", "category", "retryable"),
    [
        (RetryableFailure("x", category="rate_limit"), "rate_limit", True),
        (TerminalFailure("x", category="auth"), "auth", False),
        (BusUnavailable("x"), "connection", True),
        (KeyError("x"), "internal", True),
    ],
)
def test_every_error_has_a_category(error: Any, category: Any, retryable: Any) -> None:
    info = error_of(error, ())
    assert (info.category, info.retryable) == (category, retryable)


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_was_not_foreseen_is_recorded_with_its_place_and_without_secrets(wrapped: bool, caplog: Any) -> None:
    def defect() -> None:
        raise KeyError("hunter2-hunter2")

    try:
        defect()
    except KeyError as error:
        if wrapped:
            caught: Exception = RetryableFailure("the model failed: KeyError", category="internal")
            caught.__cause__ = error
        else:
            caught = error
    info = error_of(caught, ("hunter2-hunter2",))
    assert info.detail["exception"] == "KeyError"
    assert info.detail["stack"][-1].startswith("tests/unit/test_perform.py:")
    assert info.detail["stack"][-1].endswith(" defect")
    assert "defect" in caplog.text
    assert "hunter2" not in f"{info}{caplog.text}"


def test_a_long_message_is_cut() -> None:
    assert len(error_of(TerminalFailure("x" * 100_000, category="auth"), ()).message) < 5_000


def test_a_work_subject_says_whom_to_tell_about_poison() -> None:
    execution_id = new_id()
    result = result_for_poison(f"work.python.normal.3.{execution_id}.summarize~3@2", "broken", 1.0, "r")
    assert result is not None
    assert (result.execution_id, result.step, result.item, result.attempt) == (execution_id, "summarize", 3, 2)
    assert result.error is not None
    assert not result.error.retryable
    assert result_for_poison("work.python.normal.3.not-an-id.load@1", "broken", 1.0, "r") is None
    assert result_for_poison(f"work.python.normal.3.{execution_id}.???", "broken", 1.0, "r") is None


async def test_what_is_in_the_cache_is_not_performed_and_not_paid(
    blobs: Any, memory: Memory, step_factory: Any
) -> None:
    calls: list[Any] = []

    async def executor(attempt: Any) -> Any:
        calls.append(attempt.input)
        attempt.usage = Usage(calls=1)
        return {"answer": len(calls)}

    performer = Performer({"python": executor}, blobs, memory, SECRETS, "runner-1")

    async def result(key: str) -> Any:
        attempt = performer.open(step_factory(cache=key, cache_ttl_s=60.0), 1.0)
        return performer.succeeded(attempt, await performer.perform(attempt), 1.0)

    first, second, other = [await result(key) for key in ("k", "k", "l")]
    assert (first.output.data, first.cached, first.usage.calls) == ({"answer": 1}, False, 1)
    assert (second.output.data, second.cached, second.usage) == ({"answer": 1}, True, None)
    assert (other.output.data, other.cached) == ({"answer": 2}, False)
    assert (await result("")).cached is False
    assert (await result("")).cached is False
    assert set(memory.kept) == {"k", "l"}


async def test_a_failure_is_not_kept(perform: Any, memory: Memory) -> None:
    async def executor(_: Any) -> Any:
        raise RetryableFailure("not now", category="server_error")

    with pytest.raises(RetryableFailure):
        await perform(executor, cache="k", cache_ttl_s=60.0)

    async def wrong(_: Any) -> Any:
        return 1

    with pytest.raises(TerminalFailure):
        await perform(wrong, cache="k", cache_ttl_s=60.0, spec={"output": {"type": "string"}})
    assert not memory.kept
