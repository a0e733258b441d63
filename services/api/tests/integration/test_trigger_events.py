"""Events of other services: each starts what it should, exactly once, or goes to DEAD with the reason."""

from typing import Any

import pytest

from millrace_shared import subjects
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.streams import EVENT_BYTES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def dead_of(api: Any, subject: str) -> list[dict[str, Any]]:
    listed = (await api.http.get("/api/v1/dead?limit=100")).json()
    return [one for one in listed["items"] if one["subject"] == subject]


async def test_an_event_starts_every_trigger_that_takes_it_and_passes_the_others(
    api: Any, workflow: str, eventually: Any
) -> None:
    name = api.fresh("orders")
    all_of_them = await api.trigger(workflow, "event", event=name, input={"what": "${{ event.id }}"})
    large = await api.trigger(workflow, "event", event=name, filter="event.size > 10", labels={"size": "large"})
    disabled = await api.trigger(workflow, "event", event=name, enabled=False)
    await api.publish_event(name, b'{"id": "a", "size": 1}')
    await api.publish_event(name, b'{"id": "b", "size": 11}')

    async def counted() -> bool:
        counts = (await api.shown(large))["counts"]
        return bool(counts["fired"] == counts["filtered"] == 1)

    await eventually(counted)
    requests = await api.started(all_of_them)
    assert sorted(request.input.data["what"] for request in requests) == ["a", "b"]
    assert [request.labels for request in await api.started(large)] == [{"size": "large"}]
    assert not await api.started(disabled)
    assert not await dead_of(api, subjects.trigger_event("default", name))


async def test_the_same_event_is_told_by_dedupe(api: Any, workflow: str, eventually: Any) -> None:
    name = api.fresh("orders")
    trigger = await api.trigger(workflow, "event", event=name, dedupe="event.id")
    for payload in (b'{"id": "a"}', b'{"id": "a", "again": true}', b'{"id": {"odd": "\\u2603"}}', b'{"id": 7}'):
        await api.publish_event(name, payload)

    async def counted() -> bool:
        counts = (await api.shown(trigger))["counts"]
        return bool((counts["fired"], counts["repeated"]) == (3, 1))

    await eventually(counted)
    assert len(await api.started(trigger)) == 3


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"not json", "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b"[" * 100 + b"]" * 100, "nested deeper"),
        (b'{"id": 1}', "its input fails"),
        (b'{"size": "text"}', "its filter fails"),
        (b'{"size": 1, "what": 3}', "is not of type"),
    ],
)
async def test_an_event_that_cannot_be_used_goes_to_dead_with_the_reason(
    api: Any, eventually: Any, payload: bytes, words: str
) -> None:
    picky = await api.accepting(what={"type": "string"})
    name = api.fresh("picky")
    await api.trigger(
        picky,
        "event",
        event=name,
        filter="!has(event.size) || event.size > 0",
        input={"what": "${{ event.what }}"},
    )
    sequence = await api.publish_event(name, payload)

    async def buried() -> list[dict[str, Any]]:
        return await dead_of(api, subjects.trigger_event("default", name))

    (letter,) = await eventually(buried)
    assert words in letter["reason"]
    assert (letter["original_sequence"], letter["service"], letter["stream"]) == (sequence, "api", "TRIGGERS")


async def test_an_event_that_is_too_large_is_refused_to_who_publishes_it(api: Any) -> None:
    with pytest.raises(BusRefused):
        await api.publish_event(api.fresh("large"), b'"' + b"x" * EVENT_BYTES_MAX + b'"')


async def test_an_event_that_nobody_takes_can_be_sent_again_once_somebody_does(
    api: Any, workflow: str, eventually: Any
) -> None:
    name = api.fresh("early")
    await api.publish_event(name, b'{"id": "early"}')

    async def buried() -> list[dict[str, Any]]:
        return await dead_of(api, subjects.trigger_event("default", name))

    (letter,) = await eventually(buried)
    assert "no enabled trigger" in letter["reason"]
    trigger = await api.trigger(workflow, "event", event=name, input={"what": "${{ event.id }}"})
    answer = await api.http.post(f"/api/v1/dead/{letter['sequence']}/redrive")
    assert answer.status_code == 202, answer.text

    async def fired() -> bool:
        return bool((await api.shown(trigger))["counts"]["fired"])

    await eventually(fired)
    assert [request.input.data for request in await api.started(trigger)] == [{"what": "early"}]


async def test_a_redriven_event_does_not_fire_those_again_that_it_fired_at_first(
    api: Any, workflow: str, eventually: Any
) -> None:
    name = api.fresh("half")
    fine = await api.trigger(workflow, "event", event=name)
    broken = await api.trigger(workflow, "event", event=name, input={"what": "${{ event.missing }}"})
    await api.publish_event(name, b"{}")
    subject = subjects.trigger_event("default", name)

    async def buried() -> Any:
        found = await dead_of(api, subject)
        return found if len(found) == expected else None

    expected = 1
    (letter,) = await eventually(buried)
    assert broken["name"] in letter["reason"]
    await api.http.post(f"/api/v1/dead/{letter['sequence']}/redrive")
    expected = 2  # it fails again: nothing was put right
    second, _ = await eventually(buried)
    await api.http.patch(f"/api/v1/triggers/{broken['id']}", json={"input": None})
    assert (await api.http.post(f"/api/v1/dead/{second['sequence']}/redrive")).status_code == 202

    async def fired() -> bool:
        return bool((await api.shown(broken))["counts"]["fired"])

    await eventually(fired)
    assert len(await api.started(fine)) == len(await api.started(broken)) == 1


async def test_nobody_makes_an_event_a_repetition_by_saying_so(api: Any, workflow: str, eventually: Any) -> None:
    name = api.fresh("forged")
    trigger = await api.trigger(workflow, "event", event=name)
    await api.publish_event(api.fresh("nobody"), b"{}")
    for _ in range(2):
        await api.publish_event(name, b"{}", **{"Millrace-Redrive": "1"})
    await api.publish_event(name, b"{}", **{"Millrace-Redrive": "9" * 40})  # no stream counts that far

    async def fired() -> bool:
        return bool((await api.shown(trigger))["counts"]["fired"] == 3)

    await eventually(fired)
