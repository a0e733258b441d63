"""Triggers: what is saved and refused, and that each kind starts what it should, exactly once."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from millrace_api.domain.trigger_signatures import sign
from millrace_shared import subjects
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.bus.streams import EVENT_BYTES_MAX
from millrace_shared.codec import decode_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a-secret-that-nobody-guesses"
EVERY_SECOND = "* * * * * *"
_names = itertools.count()


async def workflow_with(api: Any, **inputs: Any) -> str:
    name: str = await api.workflow(inputs=inputs, steps={"greet": {"transform": "hello"}})
    return name


@pytest_asyncio.fixture(loop_scope="module")
async def workflow(api: Any) -> str:
    """A workflow that takes anything as `what`."""
    return await workflow_with(api, what={"default": None})


def fresh(kind: str) -> str:
    return f"{kind}-{next(_names)}-{time.time_ns()}"


async def save(api: Any, workflow: str, kind: str, **fields: Any) -> dict[str, Any]:
    body = {"name": fresh(kind), "kind": kind, "workflow": workflow, **fields}
    answer = await api.http.post("/api/v1/triggers", json=body)
    assert answer.status_code == 201, answer.text
    saved: dict[str, Any] = answer.json()
    return saved


async def publish(api: Any, name: str, payload: bytes, **headers: str) -> int:
    message = Outgoing(subjects.trigger_event("default", name), payload, extra=headers)
    sequence: int = (await api.orchestrator.publisher.publish(message)).seq
    return sequence


async def shown(api: Any, trigger: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await api.http.get(f"/api/v1/triggers/{trigger['id']}")).json()
    return found


async def started(api: Any, trigger: dict[str, Any]) -> list[Any]:
    """The requests that a trigger has made."""
    found = []
    async for stored in read_subject(api.orchestrator.connection, "INBOX", "in.*.*.start"):
        request = decode_request(stored.payload)
        if request.origin is not None and request.origin.trigger_id == trigger["id"]:
            found.append(request)
    return found


async def dead_of(api: Any, subject: str) -> list[dict[str, Any]]:
    listed = (await api.http.get("/api/v1/dead?limit=100")).json()
    return [one for one in listed["items"] if one["subject"] == subject]


@pytest.mark.parametrize(
    ("changes", "loc", "words"),
    [
        ({"cron": "0 0 30 2 *"}, ["cron"], "it never fires"),
        ({"cron": "every day"}, ["cron"], "five fields"),
        ({"cron": None}, ["cron"], "required"),
        ({"timezone": "Europe/Berlln"}, ["timezone"], "Europe/Berlin"),
        ({"workflow": "nobodys"}, ["workflow"], "there is no workflow"),
        ({"version": 7}, ["workflow"], "version 7"),
        ({"input": {"wat": 1}}, ["input", "wat"], "no input"),
        ({"input": {"what": "${{ event.x }}"}}, ["input", "what"], "no event"),
        ({"input": {"what": "${{ trigger.scheduled }}"}}, ["input", "what"], "scheduled_at"),
        ({"input": {"what": "${{ secrets.key }}"}}, ["input", "what"], "cannot be read"),
        ({"input": {"what": "${{ inputs.a + }}"}}, ["input", "what"], "not an expression"),
        ({"filter": "true"}, ["filter"], "no such field"),
        ({"misfire": "twice"}, ["misfire"], "twice"),
        ({"cronn": "x"}, ["cronn"], "cron"),
        ({"name": "Not a name"}, ["name"], "regex"),
        ({"labels": {"a": 1}}, ["labels"], "str"),
    ],
)
async def test_a_trigger_with_a_mistake_is_refused_by_its_field(
    api: Any, workflow: str, changes: dict[str, Any], loc: list[str], words: str
) -> None:
    body = {"name": fresh("bad"), "kind": "cron", "cron": "0 9 * * 1-5", "workflow": workflow, **changes}
    answer = await api.http.post("/api/v1/triggers", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "trigger_invalid"), problem
    mistakes = [one for one in problem["errors"] if one["loc"] == ["body", *loc]]
    assert mistakes, problem
    assert words in str(mistakes[0])


@pytest.mark.parametrize(
    ("kind", "changes", "loc"),
    [
        ("event", {"filter": "event.x +"}, ["filter"]),
        ("event", {"filter": "'text'"}, ["filter"]),
        ("event", {"dedupe": "steps.a.output"}, ["dedupe"]),
        ("event", {"event": "two.tokens"}, ["event"]),
        ("webhook", {"secret": "short"}, ["secret"]),
        ("alert", {"statuses": []}, ["statuses"]),
        ("alert", {"match": {"a": None}}, ["match"]),
        ("queue", {}, ["kind"]),
    ],
)
async def test_what_only_one_kind_has_is_checked_too(
    api: Any, workflow: str, kind: str, changes: dict[str, Any], loc: list[str]
) -> None:
    body = {"name": fresh("bad"), "kind": kind, "workflow": workflow, **changes}
    answer = await api.http.post("/api/v1/triggers", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "trigger_invalid"), answer.text
    assert [one["loc"] for one in answer.json()["errors"]] == [["body", *loc]], answer.text


async def test_a_missing_input_is_refused_when_the_trigger_is_saved(api: Any) -> None:
    needy = await workflow_with(api, who={"type": "string"})
    body = {"name": fresh("bad"), "kind": "event", "workflow": needy}
    answer = await api.http.post("/api/v1/triggers", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["body", "input", "who"])


async def test_a_trigger_is_written_in_yaml_and_kept_as_it_was_meant(api: Any, workflow: str) -> None:
    name = fresh("yaml")
    source = f"""
name: {name}
kind: cron
cron: "0 9 * * 1-5"
timezone: Europe/Berlin
misfire: run_once
workflow: {workflow}
input: {{what: "${{{{ trigger.scheduled_at }}}}"}}
labels: {{team: search}}
priority: high
"""
    answer = await api.http.put(f"/api/v1/triggers/{name}", content=source.encode())
    assert answer.status_code == 201, answer.text
    saved = answer.json()
    assert (saved["cron"], saved["timezone"], saved["misfire"]) == ("0 9 * * 1-5", "Europe/Berlin", "run_once")
    assert saved["next_fire_at"] > saved["created_at"]
    assert saved["counts"] == {"fired": 0, "repeated": 0, "filtered": 0, "failed": 0, "missed": 0}
    again = await api.http.put(f"/api/v1/triggers/{name}", content=source.encode())
    assert (again.status_code, again.json()["id"]) == (200, saved["id"])
    schedule = await read_last(api.orchestrator.connection, "TIMERS", subjects.cron("default", saved["id"]))
    assert schedule is not None
    assert b"0 0 9 * * 1,2,3,4,5" in schedule.payload


async def test_names_are_taken_once_and_triggers_are_listed_changed_and_removed(api: Any, workflow: str) -> None:
    trigger = await save(api, workflow, "event", filter="event.size > 1")
    taken = await api.http.post(
        "/api/v1/triggers", json={"name": trigger["name"], "kind": "event", "workflow": workflow}
    )
    assert (taken.status_code, taken.json()["code"]) == (409, "trigger_exists")
    other = await save(api, workflow, "event")
    path = f"/api/v1/triggers/{trigger['name']}"
    clash = await api.http.patch(path, json={"name": other["name"]})
    assert (clash.status_code, clash.json()["code"]) == (409, "trigger_exists")
    changed = (await api.http.patch(path, json={"filter": None, "enabled": False})).json()
    assert (changed["filter"], changed["enabled"], changed["event"]) == (None, False, trigger["name"])
    moved = await api.http.patch(path, json={"kind": "alert"})
    assert (moved.status_code, moved.json()["errors"][0]["loc"]) == (422, ["body", "kind"])
    listed = (await api.http.get(f"/api/v1/triggers?name={trigger['name']}")).json()
    assert ([one["id"] for one in listed["items"]], listed["total"]) == ([trigger["id"]], 1)
    page = (await api.http.get("/api/v1/triggers?kind=event&limit=1")).json()
    rest = (await api.http.get(f"/api/v1/triggers?kind=event&limit=1&cursor={page['next_cursor']}")).json()
    assert [page["items"][0]["id"], rest["items"][0]["id"]] == [other["id"], trigger["id"]]
    assert (await api.http.delete(path)).status_code == 204
    gone = await api.http.get(path)
    assert (gone.status_code, gone.json()["code"]) == (404, "trigger_not_found")
    assert (await api.http.delete(path)).status_code == 404


async def test_a_schedule_goes_with_its_trigger(api: Any, workflow: str) -> None:
    trigger = await save(api, workflow, "cron", cron="0 9 * * *")
    path = f"/api/v1/triggers/{trigger['id']}"
    connection, subject = api.orchestrator.connection, subjects.cron("default", trigger["id"])
    first = await read_last(connection, "TIMERS", subject)
    assert first is not None
    await api.http.patch(path, json={"labels": {"a": "b"}})
    assert await read_last(connection, "TIMERS", subject) == first
    await api.http.patch(path, json={"enabled": False})
    assert await read_last(connection, "TIMERS", subject) is None
    assert (await api.http.get(path)).json()["next_fire_at"] is None
    await api.http.patch(path, json={"enabled": True, "cron": "0 8 * * *"})
    again = await read_last(connection, "TIMERS", subject)
    assert again is not None
    assert again.payload != first.payload
    await api.http.delete(path)
    assert await read_last(connection, "TIMERS", subject) is None


async def test_a_cron_trigger_starts_one_execution_for_each_time(
    api: Any, workflow: str, eventually: Any, start_api: Callable[[], Any]
) -> None:
    """With two processes that take ticks, and each tick told twice."""
    async with start_api():
        trigger = await save(
            api, workflow, "cron", cron=EVERY_SECOND, input={"what": "${{ trigger.scheduled_at }}"}, priority="high"
        )

        async def three() -> bool:
            counts = (await shown(api, trigger))["counts"]
            return bool(counts["fired"] >= 3)

        await eventually(three)
        await api.http.patch(f"/api/v1/triggers/{trigger['id']}", json={"enabled": False})
        ticks = [
            one async for one in read_subject(api.orchestrator.connection, "TIMERS", subjects.tick("*", trigger["id"]))
        ]
        assert len(ticks) >= 3
    requests = await started(api, trigger)
    scheduled = [request.input.data["what"] for request in requests]
    assert len(set(scheduled)) == len(scheduled) >= 3
    assert all(
        request.execution_name == f"{trigger['id']}/at/{at}" for request, at in zip(requests, scheduled, strict=True)
    )
    assert all((request.origin.kind, request.priority) == ("cron", "high") for request in requests)
    found = await shown(api, trigger)
    assert found["last_fired_at"] is not None
    assert found["last_execution_id"] in {request.execution_id for request in requests}


async def test_a_missed_time_is_made_up_for_once_or_left_out(
    api: Any, workflow: str, eventually: Any, start_api: Callable[[], Any]
) -> None:
    """A schedule that began an hour ago, and of which nobody has heard since, until another process starts."""
    once = await save(api, workflow, "cron", cron="0 * * * *", misfire="run_once")
    skip = await save(api, workflow, "cron", cron="0 * * * *", misfire="skip")
    await api.database.execute(
        "UPDATE config.triggers SET scheduled_from = now() - interval '3 hours' WHERE id = ANY($1)",
        [once["id"], skip["id"]],
    )
    for _ in range(2):
        async with start_api():

            async def made_up() -> bool:
                return bool((await shown(api, once))["counts"]["fired"])

            await eventually(made_up)
    requests = await started(api, once)
    assert len(requests) == 1
    assert requests[0].execution_name.endswith(":00:00Z")
    assert not await started(api, skip)


async def test_a_schedule_without_a_trigger_is_removed_when_it_is_due(api: Any, workflow: str, eventually: Any) -> None:
    """What a crash between the two stores leaves behind."""
    trigger = await save(api, workflow, "cron", cron=EVERY_SECOND)
    await api.database.execute("DELETE FROM config.triggers WHERE id = $1", trigger["id"])
    subject = subjects.cron("default", trigger["id"])

    async def removed() -> bool:
        return await read_last(api.orchestrator.connection, "TIMERS", subject) is None

    await eventually(removed)


async def test_a_start_brings_schedules_in_line_with_triggers(
    api: Any, workflow: str, eventually: Any, start_api: Callable[[], Any]
) -> None:
    trigger = await save(api, workflow, "cron", cron="0 9 * * *")
    connection, subject = api.orchestrator.connection, subjects.cron("default", trigger["id"])
    await connection.jetstream_api("STREAM.PURGE.TIMERS", {"filter": subject})
    async with start_api():

        async def there() -> bool:
            return await read_last(connection, "TIMERS", subject) is not None

        await eventually(there)


async def test_an_event_starts_every_trigger_that_takes_it_and_passes_the_others(
    api: Any, workflow: str, eventually: Any
) -> None:
    name = fresh("orders")
    all_of_them = await save(api, workflow, "event", event=name, input={"what": "${{ event.id }}"})
    large = await save(api, workflow, "event", event=name, filter="event.size > 10", labels={"size": "large"})
    disabled = await save(api, workflow, "event", event=name, enabled=False)
    await publish(api, name, b'{"id": "a", "size": 1}')
    await publish(api, name, b'{"id": "b", "size": 11}')

    async def counted() -> bool:
        counts = (await shown(api, large))["counts"]
        return bool(counts["fired"] == counts["filtered"] == 1)

    await eventually(counted)
    requests = await started(api, all_of_them)
    assert sorted(request.input.data["what"] for request in requests) == ["a", "b"]
    assert [request.labels for request in await started(api, large)] == [{"size": "large"}]
    assert not await started(api, disabled)
    assert not await dead_of(api, subjects.trigger_event("default", name))


async def test_the_same_event_is_told_by_dedupe(api: Any, workflow: str, eventually: Any) -> None:
    name = fresh("orders")
    trigger = await save(api, workflow, "event", event=name, dedupe="event.id")
    for payload in (b'{"id": "a"}', b'{"id": "a", "again": true}', b'{"id": {"odd": "\\u2603"}}', b'{"id": 7}'):
        await publish(api, name, payload)

    async def counted() -> bool:
        counts = (await shown(api, trigger))["counts"]
        return bool((counts["fired"], counts["repeated"]) == (3, 1))

    await eventually(counted)
    assert len(await started(api, trigger)) == 3


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
    picky = await workflow_with(api, what={"type": "string"})
    name = fresh("picky")
    await save(
        api,
        picky,
        "event",
        event=name,
        filter="!has(event.size) || event.size > 0",
        input={"what": "${{ event.what }}"},
    )
    sequence = await publish(api, name, payload)

    async def buried() -> list[dict[str, Any]]:
        return await dead_of(api, subjects.trigger_event("default", name))

    (letter,) = await eventually(buried)
    assert words in letter["reason"]
    assert (letter["original_sequence"], letter["service"], letter["stream"]) == (sequence, "api", "TRIGGERS")


async def test_an_event_that_is_too_large_is_refused_to_who_publishes_it(api: Any) -> None:
    with pytest.raises(BusRefused):
        await publish(api, fresh("large"), b'"' + b"x" * EVENT_BYTES_MAX + b'"')


async def test_an_event_that_nobody_takes_can_be_sent_again_once_somebody_does(
    api: Any, workflow: str, eventually: Any
) -> None:
    name = fresh("early")
    await publish(api, name, b'{"id": "early"}')

    async def buried() -> list[dict[str, Any]]:
        return await dead_of(api, subjects.trigger_event("default", name))

    (letter,) = await eventually(buried)
    assert "no enabled trigger" in letter["reason"]
    trigger = await save(api, workflow, "event", event=name, input={"what": "${{ event.id }}"})
    answer = await api.http.post(f"/api/v1/dead/{letter['sequence']}/redrive")
    assert answer.status_code == 202, answer.text

    async def fired() -> bool:
        return bool((await shown(api, trigger))["counts"]["fired"])

    await eventually(fired)
    assert [request.input.data for request in await started(api, trigger)] == [{"what": "early"}]


async def test_a_redriven_event_does_not_fire_those_again_that_it_fired_at_first(
    api: Any, workflow: str, eventually: Any
) -> None:
    name = fresh("half")
    fine = await save(api, workflow, "event", event=name)
    broken = await save(api, workflow, "event", event=name, input={"what": "${{ event.missing }}"})
    await publish(api, name, b"{}")
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
        return bool((await shown(api, broken))["counts"]["fired"])

    await eventually(fired)
    assert len(await started(api, fine)) == len(await started(api, broken)) == 1


async def test_nobody_makes_an_event_a_repetition_by_saying_so(api: Any, workflow: str, eventually: Any) -> None:
    name = fresh("forged")
    trigger = await save(api, workflow, "event", event=name)
    await publish(api, fresh("nobody"), b"{}")
    for _ in range(2):
        await publish(api, name, b"{}", **{"Millrace-Redrive": "1"})

    async def fired() -> bool:
        return bool((await shown(api, trigger))["counts"]["fired"] == 2)

    await eventually(fired)


async def test_a_webhook_is_fired_by_its_token_and_shows_it_once(api: Any, workflow: str) -> None:
    trigger = await save(
        api,
        workflow,
        "webhook",
        input={"what": "${{ event.action }} ${{ trigger.headers['x-kind'] }} ${{ trigger.query.q }}"},
    )
    async with httpx.AsyncClient(base_url=str(api.http.base_url), trust_env=False) as stranger:
        answer = await stranger.post(f"{trigger['path']}?q=1", json={"action": "opened"}, headers={"X-Kind": "issue"})
        assert answer.status_code == 202, answer.text
        (execution_id,) = answer.json()["execution_ids"]
        for path in ("/api/v1/hooks/wrong", "/api/v1/hooks/" + "x" * 300):
            unknown = await stranger.post(path, json={})
            assert (unknown.status_code, unknown.json()["code"]) == (404, "hook_not_found")
        large = await stranger.post(trigger["path"], content=b'"' + b"x" * (1024 * 1024) + b'"')
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
        broken = await stranger.post(trigger["path"], content=b"{not json")
        assert (broken.status_code, broken.json()["code"]) == (422, "request_invalid")
        unusable = await stranger.post(trigger["path"], json={})
        assert (unusable.status_code, unusable.json()["code"]) == (422, "trigger_event_unusable")
        detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
        assert detail["input_variables"] == {"what": "opened issue 1"}
        token = trigger["path"].rsplit("/", 1)[1]
        assert token not in (await api.http.get(f"/api/v1/triggers/{trigger['id']}")).text
        renewed = (await api.http.post(f"/api/v1/triggers/{trigger['id']}/token")).json()
        assert (await stranger.post(trigger["path"], json={})).status_code == 404
        again = await stranger.post(f"{renewed['path']}?q=2", json={"action": "closed"}, headers={"X-Kind": "x"})
        assert again.status_code == 202
        await api.http.patch(f"/api/v1/triggers/{trigger['id']}", json={"enabled": False})
        assert (await stranger.post(renewed["path"], json={})).status_code == 404


async def test_an_idempotency_key_makes_a_webhook_repeatable(api: Any, workflow: str) -> None:
    trigger = await save(api, workflow, "webhook")
    headers = {"Idempotency-Key": "delivery-1"}
    answers = await asyncio.gather(*(api.http.post(trigger["path"], json={}, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["execution_ids"][0] for answer in answers}) == 1
    assert [answer.json()["repeated"] for answer in answers].count(False) == 1
    bad = await api.http.post(trigger["path"], json={}, headers={"Idempotency-Key": "a.b"})
    assert (bad.status_code, bad.json()["code"]) == (422, "request_invalid")


@pytest_asyncio.fixture(loop_scope="module")
async def signed(api: Any, workflow: str) -> AsyncIterator[dict[str, Any]]:
    """A webhook with a secret."""
    yield await save(api, workflow, "webhook", secret=SECRET)


async def test_a_signed_webhook_takes_signed_requests_only(api: Any, signed: dict[str, Any]) -> None:
    body, now = b'{"a": 1}', int(time.time())

    async def post(signature: str | None, **more: Any) -> httpx.Response:
        headers = ({"Millrace-Signature": signature} if signature else {}) | more.get("headers", {})
        answer: httpx.Response = await api.http.post(signed["path"], content=more.get("body", body), headers=headers)
        return answer

    right = sign(SECRET, now, "", body)
    key = {"Idempotency-Key": "one"}
    refused = [
        await post(None),
        await post("nonsense"),
        await post(sign("another-secret-of-its-own", now, "", body)),
        await post(right, body=b'{"a": 2}'),
        await post(right, headers=key),
        await post(sign(SECRET, now - 301, "", body)),
        await post(sign(SECRET, now + 330, "", body)),
    ]
    assert {answer.status_code for answer in refused} == {401}
    assert {answer.json()["code"] for answer in refused} == {"webhook_signature_invalid"}
    first, replayed = await post(right), await post(right)
    assert (first.status_code, replayed.status_code) == (202, 202)
    assert (first.json()["repeated"], replayed.json()["repeated"]) == (False, True)
    assert first.json()["execution_ids"] == replayed.json()["execution_ids"]
    keyed = [await post(sign(SECRET, at, "one", body), headers=key) for at in (now, now + 1)]
    assert len({answer.json()["execution_ids"][0] for answer in keyed}) == 1
    assert (await post(sign(SECRET, now - 290, "", body))).status_code == 202


async def test_a_secret_is_never_shown_and_stays_until_another_is_given(api: Any, signed: dict[str, Any]) -> None:
    path = f"/api/v1/triggers/{signed['id']}"
    found = (await api.http.get(path)).json()
    fields = {name: found[name] for name in ("name", "kind", "workflow")}
    answers = [
        await api.http.get(path),
        await api.http.get(f"/api/v1/triggers?name={signed['name']}"),
        await api.http.put(path, json=fields),
        await api.http.patch(path, json={"labels": {"a": "b"}}),
    ]
    assert all(answer.status_code == 200 and SECRET not in answer.text for answer in answers)
    assert (await api.http.get(path)).json()["signed"] is True
    assert (await api.http.post(signed["path"], json={})).status_code == 401
    for secret in ("short-secret", "long-secret" * 50, ["listed-secret"]):
        refused = await api.http.patch(path, json={"secret": secret})
        assert (refused.status_code, "-secret" in refused.text) == (422, False)
    assert (await api.http.patch(path, json={"secret": ""})).json()["signed"] is False
    assert (await api.http.post(signed["path"], json={})).status_code == 202


def notification(*alerts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}:{}", "status": "firing", "receiver": "millrace", "alerts": alerts, **more}


def alert(fingerprint: str, status: str = "firing", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "HighLatency", **labels},
        "annotations": {"summary": "slow"},
        "startsAt": "2026-01-15T10:00:00.123Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": fingerprint,
    }


async def test_an_alert_fires_the_triggers_that_match_it_once_however_often_it_comes(api: Any, workflow: str) -> None:
    team = fresh("team")
    mapping = {"what": "${{ event.labels.alertname }}: ${{ event.annotations.summary }}"}
    trigger = await save(api, workflow, "alert", match={"team": team}, input=mapping)
    both = await save(api, workflow, "alert", match={"team": team, "severity": "page"}, statuses=["firing", "resolved"])
    body = notification(alert("f1", team=team), alert("f2", team=team, severity="page"), alert("f3", team="other"))
    first = (await api.http.post("/api/v1/alerts/alertmanager", json=body)).json()
    mine = [one for one in first["fired"] if one["trigger_id"] in (trigger["id"], both["id"])]
    assert sorted((one["trigger_id"], one["fingerprint"]) for one in mine) == sorted(
        [(trigger["id"], "f1"), (trigger["id"], "f2"), (both["id"], "f2")]
    )
    repeats = await asyncio.gather(*(api.http.post("/api/v1/alerts/alertmanager", json=body) for _ in range(10)))
    assert all(one["repeated"] for answer in repeats for one in answer.json()["fired"])
    resolved = notification(alert("f2", "resolved", team=team, severity="page"))
    answer = (await api.http.post("/api/v1/alerts/alertmanager", json=resolved)).json()
    assert [one["trigger_id"] for one in answer["fired"]] == [both["id"]]
    assert [request.input.data["what"] for request in await started(api, trigger)] == ["HighLatency: slow"] * 2
    assert len(await started(api, both)) == 2


async def test_alerts_are_never_answered_with_500(api: Any, workflow: str) -> None:
    team = fresh("team")
    trigger = await save(api, workflow, "alert", match={"team": team}, input={"what": "${{ event.labels.nope }}"})
    answer = await api.http.post("/api/v1/alerts/alertmanager", json=notification(alert("f", team=team)))
    assert answer.status_code == 200
    assert [one["trigger_id"] for one in answer.json()["failed"]] == [trigger["id"]]
    odd = alert("", team=team) | {"startsAt": "x" * 5_000, "unknown": 1}
    bodies: list[Any] = [{}, [], notification(version="3"), notification({"status": "odd"}), notification(odd), "x"]
    statuses = [(await api.http.post("/api/v1/alerts/alertmanager", json=body)).status_code for body in bodies]
    assert statuses == [422, 422, 422, 422, 200, 422]
    async with httpx.AsyncClient(base_url=str(api.http.base_url), trust_env=False) as stranger:
        assert (await stranger.post("/api/v1/alerts/alertmanager", json=notification())).status_code == 401


async def test_a_trigger_is_tried_out_by_hand_enabled_or_not(api: Any, workflow: str) -> None:
    trigger = await save(
        api,
        workflow,
        "event",
        enabled=False,
        filter="event.size > 1",
        dedupe="event.size",
        input={"what": "${{ trigger.subject }}"},
    )
    path = f"/api/v1/triggers/{trigger['name']}/fire"
    answers = [await api.http.post(path, json={"event": {"size": 2}}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["execution_id"] for answer in answers}) == 2
    no = await api.http.post(path, json={"event": {"size": 1}})
    assert (no.status_code, no.json()["filtered"], no.json()["execution_id"]) == (200, True, None)
    bad = await api.http.post(path, json={"event": None})
    assert (bad.status_code, bad.json()["code"]) == (422, "trigger_event_unusable")
    cron = await save(api, workflow, "cron", cron="0 9 * * *", input={"what": "${{ trigger.scheduled_at }}"})
    assert (await api.http.post(f"/api/v1/triggers/{cron['id']}/fire")).status_code == 202


async def test_a_trigger_of_an_archived_workflow_says_so(api: Any) -> None:
    gone = await workflow_with(api)
    trigger = await save(api, gone, "webhook")
    await api.http.delete(f"/api/v1/workflows/{gone}")
    answer = await api.http.post(trigger["path"], json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "workflow_archived")


async def test_what_came_of_triggers_is_measured(api: Any, workflow: str) -> None:
    trigger = await save(api, workflow, "webhook", filter="event.yes")
    for yes in (True, False):
        await api.http.post(trigger["path"], json={"yes": yes})
    text = (await api.http.get("/metrics")).text
    for outcome in ("fired", "filtered"):
        assert f'millrace_api_triggers_total{{kind="webhook",outcome="{outcome}"}}' in text
    assert trigger["id"] not in text
