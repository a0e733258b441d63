"""Results that are used again, on a real server."""

from typing import Any

import msgspec
import pytest

from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing, Publisher

KEY = "ab" * 32


class Counting:
    """An executor that returns how often it was called, or what it is told to."""

    def __init__(self, *results: Any) -> None:
        self.calls = 0
        self._results = results

    async def __call__(self, _: Any) -> Any:
        self.calls += 1
        return self._results[0] if self._results else self.calls


@pytest.fixture
def cached(step_factory: Any) -> Any:
    return lambda **fields: step_factory("http", **{"cache": KEY, "cache_ttl_s": 60.0, **fields})


@pytest.fixture
def result_of(bus: Any) -> Any:
    async def result(step: Any) -> Any:
        await bus.offer(step)
        return await bus.result_of(step)

    return result


async def test_the_second_asks_nobody(bus: Any, start_worker: Any, cached: Any, result_of: Any) -> None:
    executor = Counting()
    await start_worker(executor)
    first = await result_of(cached())
    await bus.has("CACHE", 1)
    second = await result_of(cached(step="other", attempt=3, item=7))
    assert (first.output.data, first.cached) == (1, False)
    assert (second.output.data, second.cached, second.usage, second.error) == (1, True, None, None)
    assert (second.step, second.attempt, second.item) == ("other", 3, 7)
    assert executor.calls == 1
    await bus.has("WORK", 0)


async def test_keys_and_workspaces_are_kept_apart(bus: Any, start_worker: Any, cached: Any, result_of: Any) -> None:
    executor = Counting()
    await start_worker(executor)
    for fields in ({}, {"cache": "cd" * 32}, {"workspace": "another"}, {"cache": ""}, {"cache": ""}):
        assert not (await result_of(cached(**fields))).cached
    assert executor.calls == 5
    await bus.has("CACHE", 3)


async def test_a_result_lives_as_long_as_it_was_told_to(
    bus: Any, start_worker: Any, cached: Any, result_of: Any
) -> None:
    executor = Counting()
    await start_worker(executor)
    await result_of(cached(cache_ttl_s=1.0))
    await bus.has("CACHE", 1)
    await bus.has("CACHE", 0)
    assert (await result_of(cached())).output.data == 2


async def test_a_result_that_is_too_old_for_this_step_is_replaced(
    bus: Any, start_worker: Any, cached: Any, result_of: Any
) -> None:
    publisher = await Publisher(bus.connection).start()
    old = b'{"at":1000.0,"output":{"data":"old"}}'
    await publisher.publish(Outgoing(subjects.cache("default", KEY), old))
    await start_worker(Counting())
    assert (await result_of(cached())).output.data == 1
    await bus.has("CACHE", 1)

    async def replaced() -> bool:
        [stored] = await bus.stored("CACHE", subjects.cache("default", KEY))
        return bool(stored.payload != old)

    await bus.eventually(replaced, "the new result")


async def test_a_large_result_goes_by_claim_check(bus: Any, start_worker: Any, cached: Any, result_of: Any) -> None:
    executor = Counting("x" * 200_000)
    await start_worker(executor)
    first = await result_of(cached())
    await bus.has("CACHE", 1)
    second = await result_of(cached())
    [stored] = await bus.stored("CACHE", subjects.cache("default", KEY))
    assert len(stored.payload) < 1_000
    assert second.cached
    assert second.output == first.output
    assert second.output.refs[""].size_bytes == 200_002
    assert executor.calls == 1


@pytest.mark.parametrize("stored", [b"\xff", b"{}", b'{"at":"never","output":{}}'])
async def test_what_is_no_result_is_a_miss(
    bus: Any, start_worker: Any, cached: Any, result_of: Any, stored: bytes
) -> None:
    publisher = await Publisher(bus.connection).start()
    await publisher.publish(Outgoing(subjects.cache("default", KEY), stored))
    await start_worker(Counting())
    result = await result_of(cached())
    assert (result.output.data, result.error) == (1, None)


async def test_a_cache_that_is_not_there_is_a_miss(bus: Any, start_worker: Any, cached: Any, result_of: Any) -> None:
    await bus.connection.jetstream_api("STREAM.DELETE.CACHE")
    executor = Counting()
    await start_worker(executor)
    for _ in range(2):
        result = await result_of(cached())
        assert (result.cached, result.error) == (False, None)
    assert executor.calls == 2


async def test_a_failure_is_performed_again(bus: Any, start_worker: Any, cached: Any, result_of: Any) -> None:
    executor = Counting("a text")
    await start_worker(executor)
    spec = msgspec.Raw(b'{"output":{"type":"number"}}')
    for _ in range(2):
        assert (await result_of(cached(spec=msgspec.json.decode(spec)))).error.category == "invalid_output"
    assert executor.calls == 2
    assert await bus.count("CACHE") == 0
