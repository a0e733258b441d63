"""Dead letters: newest first however many there are, shown whatever they hold, and sent again where that helps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import pytest_asyncio

from millrace.embedded import BackgroundStack
from millrace_api.adapters.dead_letters import WINDOW_MESSAGES, DeadLetters
from millrace_api.domain.dead_letters import is_of
from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.messages import DeadLetter


@pytest_asyncio.fixture
async def api(
    fresh_nats: BackgroundStack, start_api_on: Callable[[str], AbstractAsyncContextManager[Any]]
) -> AsyncIterator[Any]:
    """DEAD belongs to no test: each of these has a server of its own."""
    async with start_api_on(fresh_nats.nats_url) as started:
        yield started


async def bury(api: Any, *letters: DeadLetter) -> list[int]:
    messages = [Outgoing(subjects.dead(letter.stream), encode(letter)) for letter in letters]
    sequences: list[int] = await api.orchestrator.publisher.publish_all(messages)
    return sequences


def letter(
    stream: str = "WORK", subject: str = "work.http.normal.1.x.a@1", payload: bytes = b"{}", **more: Any
) -> DeadLetter:
    return DeadLetter(stream, subject, "it is broken", "test", time.time(), payload, **more)


async def listed(api: Any, query: str = "") -> dict[str, Any]:
    answer = await api.http.get(f"/api/v1/dead{query}")
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_an_empty_list_is_a_list(api: Any) -> None:
    assert await listed(api) == {"items": [], "total": 0, "skip": 0, "limit": 10, "next_cursor": None}


async def test_letters_are_listed_newest_first_page_by_page(api: Any) -> None:
    count = WINDOW_MESSAGES + 50
    sequences = await bury(api, *(letter(payload=b"%d" % number) for number in range(count)))
    found: list[int] = []
    cursor = ""
    while True:
        page = await listed(api, f"?limit=100{cursor}")
        found += [one["sequence"] for one in page["items"]]
        assert page["total"] == count
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == sequences[::-1]


async def test_one_stream_s_letters_are_found_among_many_others(api: Any) -> None:
    (first,) = await bury(api, letter("INBOX", "in.1.x"))
    await bury(api, *(letter() for _ in range(2 * WINDOW_MESSAGES)))
    page = await listed(api, "?stream=INBOX")
    assert ([one["sequence"] for one in page["items"]], page["total"], page["next_cursor"]) == ([first], 1, None)
    assert (await listed(api, "?stream=work&limit=1"))["total"] == 2 * WINDOW_MESSAGES
    odd = await api.http.get("/api/v1/dead?stream=*")
    assert (odd.status_code, odd.json()["code"]) == (422, "request_invalid")


@pytest.mark.parametrize(
    ("payload", "encoding", "value"),
    [
        (b'{"n": 12345678901234567890123}', "json", {"n": 12345678901234567890123}),
        (b"not json", "text", "not json"),
        (b"\xff\x00", "base64", "/wA="),
        (b"", "text", ""),
    ],
)
async def test_a_letter_is_shown_whatever_it_holds(api: Any, payload: bytes, encoding: str, value: Any) -> None:
    (sequence,) = await bury(api, letter(payload=payload))
    found = (await api.http.get(f"/api/v1/dead/{sequence}")).json()
    assert (found["payload_encoding"], found["payload"], found["size_bytes"]) == (encoding, value, len(payload))
    assert (found["reason"], found["redriven_at"]) == ("it is broken", None)


async def test_what_is_not_there_is_404_and_what_is_no_letter_of_ours_is_passed_over(api: Any) -> None:
    await api.orchestrator.publisher.publish(Outgoing("dead.work", b"something else"))
    for sequence in (1, 99, 2**63 - 1):
        for answer in (
            await api.http.get(f"/api/v1/dead/{sequence}"),
            await api.http.post(f"/api/v1/dead/{sequence}/redrive"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "dead_letter_not_found")
    assert (await listed(api))["items"] == []
    assert (await api.http.get("/api/v1/dead/0")).status_code == 422


async def test_a_letter_is_sent_again_once_to_where_it_came_from(api: Any) -> None:
    subject = "in.3.0190b8a0-0000-7000-8000-000000000001"
    (sequence,) = await bury(api, letter("INBOX", subject, b'{"type": "cancel"}', headers={"traceparent": "00-1"}))
    path = f"/api/v1/dead/{sequence}/redrive"
    answers = await asyncio.gather(*(api.http.post(path) for _ in range(5)))
    assert 202 in {answer.status_code for answer in answers}
    assert {answer.status_code for answer in answers} <= {202, 409}
    again = await api.http.post(path)
    assert (again.status_code, again.json()["code"]) == (409, "dead_letter_already_redriven")
    sent = [stored async for stored in read_subject(api.orchestrator.connection, "INBOX", subject)]
    assert [stored.payload for stored in sent] == [b'{"type": "cancel"}']
    (shown,) = (await listed(api))["items"]
    assert (shown["redriven_count"], shown["redriven_by"]) == (1, "api-key:bootstrap")
    third = await api.http.post(f"{path}?again=true")
    assert (third.status_code, third.json()["redriven_count"]) == (202, 2)
    last = await read_last(api.orchestrator.connection, "INBOX", subject)
    assert last is not None
    assert last.sequence == third.json()["stored_sequence"] > sent[0].sequence


@pytest.mark.parametrize(
    ("dead", "words"),
    [
        (letter("EVENTS", "ev.1.x"), "telemetry rebuild"),
        (letter("TELEMETRY", "tel.1.x.llm"), "telemetry rebuild"),
        (letter("TIMERS", "timer.tick.default.x"), "/fire"),
        (letter("TRIGGERS", "trigger.default.x", b"[1", truncated=True), "too large"),
    ],
)
async def test_what_would_do_harm_or_nothing_is_not_sent_again(api: Any, dead: DeadLetter, words: str) -> None:
    (sequence,) = await bury(api, dead)
    answer = await api.http.post(f"/api/v1/dead/{sequence}/redrive")
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_not_redrivable")
    assert words in answer.json()["detail"]
    assert (await listed(api))["items"][0]["redrivable"] is False


async def test_work_that_is_queued_again_already_is_not_sent_a_second_time(api: Any) -> None:
    dead = letter(subject=subjects.work("http", "normal", "0190b8a0-0000-7000-8000-000000000001", "a@1"))
    await api.orchestrator.publisher.publish(Outgoing(dead.subject, b"{}"))
    (sequence,) = await bury(api, dead)
    answer = await api.http.post(f"/api/v1/dead/{sequence}/redrive")
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_not_redrivable")


async def test_a_workspace_sees_the_letters_of_its_own_events(api: Any) -> None:
    mine, theirs = letter("TRIGGERS", "trigger.mine.a"), letter("TRIGGERS", "trigger.theirs.a")
    (first, _, _) = await bury(api, mine, theirs, letter())
    letters: DeadLetters = api.running.adapters.dead
    found, following = await letters.page(lambda one: is_of(one, "mine"), None, None, 10)
    assert ([kept.sequence for kept in found], following) == ([first], None)
