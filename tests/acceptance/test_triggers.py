"""Executions that start by themselves: by the clock, by events of other services, by webhooks, by alerts."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import nats
import pytest

from millrace_api.domain.trigger_signatures import sign
from millrace_shared.testing.waiting import until

EVERY_SECOND = "* * * * * *"
SECRET = "a-secret-that-nobody-guesses"
API = "/api/v1"
_numbers = itertools.count()


def echo(millrace: Any) -> str:
    """A workflow that returns what it is given."""
    name: str = millrace.save(
        {
            "name": "echo-what",
            "inputs": {"what": {"default": None}},
            "steps": {"echo": {"transform": "${{ inputs.what }}"}},
            "outputs": {"what": "${{ steps.echo.output }}"},
        }
    )
    return name


def save(millrace: Any, kind: str, **fields: Any) -> dict[str, Any]:
    name = f"{kind}-{next(_numbers)}"
    body = {"name": name, "kind": kind, "workflow": echo(millrace), "labels": {"trigger": name}, **fields}
    answer = millrace.http.put(f"{API}/triggers/{name}", json=body)
    assert answer.status_code == 201, answer.text
    saved: dict[str, Any] = answer.json()
    return saved


def shown(millrace: Any, trigger: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = millrace.http.get(f"{API}/triggers/{trigger['id']}").json()
    return found


def ended(millrace: Any, trigger: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The ended executions that a trigger has started, oldest first, once there are so many."""
    query = f"{API}/executions?label=trigger:{trigger['name']}&sort=created_at&limit=100"

    def enough() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = millrace.http.get(query).json()["items"]
        return found if len(found) >= count else []

    return [millrace.ended(one["id"]) for one in until(enough)]


def publish(millrace: Any, *events: tuple[str, bytes], headers: dict[str, str] | None = None) -> None:
    """Publish events as another service does: with a client of its own, waiting for the acknowledgement."""

    async def send() -> None:
        connection = await nats.connect(millrace.stack.nats_url)
        try:
            for name, payload in events:
                await connection.jetstream().publish(f"trigger.default.{name}", payload, headers=headers)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(send())


def dead(millrace: Any, name: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = millrace.http.get(f"{API}/dead?stream=TRIGGERS&limit=100").json()["items"]
    return [one for one in listed if one["subject"] == f"trigger.default.{name}"]


def test_a_schedule_starts_an_execution_at_each_of_its_times(millrace: Any) -> None:
    trigger = save(millrace, "cron", cron=EVERY_SECOND, input={"what": "${{ trigger.scheduled_at }}"})
    assert trigger["next_fire_at"] is not None
    found = ended(millrace, trigger, 3)
    assert millrace.http.delete(f"{API}/triggers/{trigger['id']}").status_code == 204
    assert {one["status"] for one in found} == {"completed"}
    times = [one["results"]["what"] for one in found]
    assert len(set(times)) == len(times)
    assert [one["execution_name"] for one in found] == [f"{trigger['id']}/at/{at}" for at in times]
    assert [one["origin"]["trigger_id"] for one in found] == [trigger["id"]] * len(found)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "at nine"}, "cron"),
        ({"timezone": "Europe/Nowhere"}, "timezone"),
    ],
)
def test_a_schedule_that_never_comes_is_refused_by_its_field(
    millrace: Any, changes: dict[str, str], field: str
) -> None:
    body = {"name": "never", "kind": "cron", "workflow": echo(millrace), "cron": "0 9 * * 1-5", **changes}
    answer = millrace.http.post(f"{API}/triggers", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "trigger_invalid")
    assert [one["loc"] for one in answer.json()["errors"]] == [["body", field]]
    assert millrace.http.get(f"{API}/triggers/never").status_code == 404


def test_schedules_go_on_through_crashes_of_the_api_and_of_the_bus(millrace: Any) -> None:
    trigger = save(millrace, "cron", cron=EVERY_SECOND, misfire="run_once")
    newest = f"{API}/executions?label=trigger:{trigger['name']}&sort=-created_at&limit=1"

    def started_for_a_time_after(moment: datetime) -> bool:
        names = [one["execution_name"] for one in millrace.http.get(newest).json()["items"]]
        return any(datetime.fromisoformat(name.rpartition("/")[2]) > moment for name in names)

    until(functools.partial(started_for_a_time_after, datetime.fromtimestamp(0, UTC)))
    for name in ("api", "nats"):
        millrace.stack.kill(name)
        millrace.stack.wait_ready(name)
        until(functools.partial(started_for_a_time_after, datetime.now(UTC)))
    stopped = millrace.http.patch(f"{API}/triggers/{trigger['id']}", json={"enabled": False})
    assert stopped.status_code == 200, stopped.text
    # What was counted was stored before. A crash of the api may have lost a count, but never an execution.
    fired: int = shown(millrace, trigger)["counts"]["fired"]
    found = ended(millrace, trigger, max(fired, 3))
    assert {one["status"] for one in found} == {"completed"}
    names = [one["execution_name"] for one in found]
    assert len(set(names)) == len(names)


def test_an_event_of_another_service_starts_executions(millrace: Any) -> None:
    mapping = {"what": {"order": "${{ event.id }}", "total": "${{ event.total }}"}}
    trigger = save(millrace, "event", event="order-paid", filter="event.total > 10.0", input=mapping, dedupe="event.id")
    paid = [{"id": f"o-{number}", "total": number * 5.5} for number in range(1, 5)]
    publish(millrace, *(("order-paid", json.dumps(one).encode()) for one in [*paid, paid[2]]))
    found = ended(millrace, trigger, 3)
    results = sorted((one["results"]["what"] for one in found), key=lambda one: str(one["order"]))
    assert results == [{"order": one["id"], "total": one["total"]} for one in paid[1:]]
    counts = until(lambda: (found := shown(millrace, trigger)["counts"])["repeated"] and found)
    assert (counts["fired"], counts["filtered"], counts["repeated"], counts["failed"]) == (3, 1, 1, 0)


def test_a_thousand_events_start_a_thousand_executions_through_a_crash(millrace: Any) -> None:
    trigger = save(millrace, "event", event="burst", input={"what": "${{ event.n }}"})
    publish(millrace, *(("burst", b'{"n": %d}' % number) for number in range(500)))
    millrace.stack.kill("api")
    publish(millrace, *(("burst", b'{"n": %d}' % number) for number in range(500, 1_000)))
    millrace.stack.wait_ready("api")
    query = f"{API}/executions?label=trigger:{trigger['name']}&status=completed&limit=1"
    until(lambda: millrace.http.get(query).json()["total"] == 1_000, deadline_s=90.0)
    total = millrace.http.get(f"{API}/executions?label=trigger:{trigger['name']}&limit=1").json()["total"]
    assert total == 1_000


def test_a_trace_goes_on_from_the_event(millrace: Any) -> None:
    trigger = save(millrace, "event", event="traced")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    publish(millrace, ("traced", b"{}"), headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    (found,) = ended(millrace, trigger, 1)
    assert found["trace_id"] == trace


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"not json", "not JSON"), (b'{"n": "x"}', "its filter fails"), (b'{"n": 2}', "its input fails")],
)
def test_an_event_that_cannot_be_used_changes_nothing_and_goes_to_the_dead_letters(
    millrace: Any, payload: bytes, words: str
) -> None:
    event = f"picky-{next(_numbers)}"
    trigger = save(millrace, "event", event=event, filter="event.n > 1", input={"what": "${{ event.what }}"})
    publish(millrace, (event, payload))
    (letter,) = until(lambda: dead(millrace, event))
    assert words in letter["reason"]
    assert shown(millrace, trigger)["counts"]["fired"] == 0
    assert millrace.http.get(f"{API}/executions?label=trigger:{trigger['name']}").json()["total"] == 0


def test_a_webhook_starts_an_execution_and_needs_no_key(millrace: Any) -> None:
    trigger = save(millrace, "webhook", input={"what": "${{ event.action }}"}, filter="event.action != 'ping'")
    with httpx.Client(base_url=millrace.stack.api_url, trust_env=False) as stranger:
        answer = stranger.post(trigger["path"], json={"action": "opened"})
        assert answer.status_code == 202, answer.text
        ping = stranger.post(trigger["path"], json={"action": "ping"})
        assert (ping.status_code, ping.json()["execution_ids"], ping.json()["filtered"]) == (202, [], True)
        unknown = stranger.post(f"{API}/hooks/unknown", json={})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "hook_not_found")
        headers = {"Idempotency-Key": "delivery-7"}
        with ThreadPoolExecutor(8) as pool:
            repeats = list(
                pool.map(lambda _: stranger.post(trigger["path"], json={"action": "x"}, headers=headers), range(20))
            )
    assert len({repeat.json()["execution_ids"][0] for repeat in repeats}) == 1
    (execution_id,) = answer.json()["execution_ids"]
    assert millrace.ended(execution_id)["results"] == {"what": "opened"}


def test_a_signed_webhook_takes_what_is_signed_and_new(millrace: Any) -> None:
    trigger = save(millrace, "webhook", secret=SECRET)
    assert SECRET not in json.dumps(trigger)
    body, now = b'{"a": 1}', int(time.time())

    def post(signature: str) -> httpx.Response:
        with httpx.Client(base_url=millrace.stack.api_url, trust_env=False) as stranger:
            return stranger.post(trigger["path"], content=body, headers={"Millrace-Signature": signature})

    for wrong in ("", sign("not-the-secret-at-all", now, "", body), sign(SECRET, now - 400, "", body)):
        answer = post(wrong)
        assert (answer.status_code, answer.json()["code"]) == (401, "webhook_signature_invalid")
    first, replayed = (post(sign(SECRET, now, "", body)).json() for _ in range(2))
    assert first["execution_ids"] == replayed["execution_ids"]
    assert (first["repeated"], replayed["repeated"]) == (False, True)
    assert millrace.ended(first["execution_ids"][0])["status"] == "completed"


def test_an_alert_starts_one_execution_however_often_it_is_repeated(millrace: Any) -> None:
    mapping = {"what": "${{ event.labels.alertname }} on ${{ event.labels.host }}"}
    trigger = save(millrace, "alert", match={"severity": "page"}, input=mapping)
    alerts = [
        {
            "status": "firing",
            "labels": {"alertname": "DiskFull", "severity": severity, "host": host},
            "annotations": {},
            "startsAt": "2026-01-15T10:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": f"{host}-{severity}",
        }
        for host, severity in (("a", "page"), ("b", "page"), ("c", "info"))
    ]
    body = {"version": "4", "groupKey": "g", "status": "firing", "receiver": "millrace", "alerts": alerts}
    answers = [millrace.http.post(f"{API}/alerts/alertmanager", json=body) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    found = ended(millrace, trigger, 2)
    assert sorted(one["results"]["what"] for one in found) == ["DiskFull on a", "DiskFull on b"]
    for odd in (b"{", b"[]", b'{"version": "3", "alerts": []}', b'{"version": "4"}'):
        assert millrace.http.post(f"{API}/alerts/alertmanager", content=odd).status_code == 422


def test_a_trigger_is_tried_out_by_hand(millrace: Any) -> None:
    trigger = save(millrace, "event", enabled=False, input={"what": "${{ event.n }}"}, filter="event.n > 0")
    path = f"{API}/triggers/{trigger['name']}/fire"
    answer = millrace.http.post(path, json={"event": {"n": 7}})
    assert answer.status_code == 202, answer.text
    assert millrace.ended(answer.json()["execution_id"])["results"] == {"what": 7}
    assert millrace.http.post(path, json={"event": {"n": 0}}).json()["filtered"] is True
    broken = millrace.http.post(path, json={"event": {}})
    assert (broken.status_code, broken.json()["code"]) == (422, "trigger_event_unusable")
