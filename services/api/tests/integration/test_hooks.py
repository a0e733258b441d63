"""Webhooks and alerts: who may fire a trigger, and that the same thing told twice fires it once."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from millrace_api.domain.trigger_signatures import sign

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a-secret-that-nobody-guesses"


async def test_a_webhook_is_fired_by_its_token_and_shows_it_once(api: Any, workflow: str) -> None:
    trigger = await api.trigger(
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
    trigger = await api.trigger(workflow, "webhook")
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
    yield await api.trigger(workflow, "webhook", secret=SECRET)


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
    for nothing in ("", None):
        assert (await api.http.patch(path, json={"secret": SECRET})).json()["signed"] is True
        assert (await api.http.patch(path, json={"secret": nothing})).json()["signed"] is False
    assert (await api.http.post(signed["path"], json={})).status_code == 202


async def test_an_input_that_no_store_takes_is_refused(api: Any, workflow: str) -> None:
    trigger = await api.trigger(workflow, "webhook", input={"what": ["${{ event }}"] * 70})
    answer = await api.http.post(trigger["path"], json="x" * 1_000_000)
    assert (answer.status_code, answer.json()["code"]) == (422, "input_invalid")
    assert "too large" in answer.json()["detail"]


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
    team = api.fresh("team")
    mapping = {"what": "${{ event.labels.alertname }}: ${{ event.annotations.summary }}"}
    trigger = await api.trigger(workflow, "alert", match={"team": team}, input=mapping)
    both = await api.trigger(
        workflow, "alert", match={"team": team, "severity": "page"}, statuses=["firing", "resolved"]
    )
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
    assert [request.input.data["what"] for request in await api.started(trigger)] == ["HighLatency: slow"] * 2
    assert len(await api.started(both)) == 2


async def test_alerts_are_never_answered_with_500(api: Any, workflow: str) -> None:
    team = api.fresh("team")
    trigger = await api.trigger(workflow, "alert", match={"team": team}, input={"what": "${{ event.labels.nope }}"})
    answer = await api.http.post("/api/v1/alerts/alertmanager", json=notification(alert("f", team=team)))
    assert answer.status_code == 200
    assert [one["trigger_id"] for one in answer.json()["failed"]] == [trigger["id"]]
    odd = alert("", team=team) | {"startsAt": "x" * 5_000, "unknown": 1}
    bodies: list[Any] = [{}, [], notification(version="3"), notification({"status": "odd"}), notification(odd), "x"]
    statuses = [(await api.http.post("/api/v1/alerts/alertmanager", json=body)).status_code for body in bodies]
    assert statuses == [422, 422, 422, 422, 200, 422]
    async with httpx.AsyncClient(base_url=str(api.http.base_url), trust_env=False) as stranger:
        assert (await stranger.post("/api/v1/alerts/alertmanager", json=notification())).status_code == 401
