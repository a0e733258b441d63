"""Triggers: what is saved and refused, and that schedules start what they should, exactly once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last, read_subject

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_SECOND = "* * * * * *"


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
    body = {"name": api.fresh("bad"), "kind": "cron", "cron": "0 9 * * 1-5", "workflow": workflow, **changes}
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
    body = {"name": api.fresh("bad"), "kind": kind, "workflow": workflow, **changes}
    answer = await api.http.post("/api/v1/triggers", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "trigger_invalid"), answer.text
    assert [one["loc"] for one in answer.json()["errors"]] == [["body", *loc]], answer.text


async def test_a_missing_input_is_refused_when_the_trigger_is_saved(api: Any) -> None:
    needy = await api.accepting(who={"type": "string"})
    body = {"name": api.fresh("bad"), "kind": "event", "workflow": needy}
    answer = await api.http.post("/api/v1/triggers", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["body", "input", "who"])


async def test_a_trigger_is_written_in_yaml_and_kept_as_it_was_meant(api: Any, workflow: str) -> None:
    name = api.fresh("yaml")
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
    trigger = await api.trigger(workflow, "event", filter="event.size > 1")
    taken = await api.http.post(
        "/api/v1/triggers", json={"name": trigger["name"], "kind": "event", "workflow": workflow}
    )
    assert (taken.status_code, taken.json()["code"]) == (409, "trigger_exists")
    other = await api.trigger(workflow, "event")
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


async def test_of_two_that_take_a_name_at_once_one_is_told(api: Any, workflow: str) -> None:
    for _ in range(20):
        wanted = api.fresh("event")
        both = [await api.trigger(workflow, "event") for _ in range(2)]
        answers = await asyncio.gather(
            *(api.http.patch(f"/api/v1/triggers/{one['id']}", json={"name": wanted}) for one in both)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]


async def test_a_schedule_goes_with_its_trigger(api: Any, workflow: str) -> None:
    trigger = await api.trigger(workflow, "cron", cron="0 9 * * *")
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
        trigger = await api.trigger(
            workflow, "cron", cron=EVERY_SECOND, input={"what": "${{ trigger.scheduled_at }}"}, priority="high"
        )

        async def three() -> bool:
            counts = (await api.shown(trigger))["counts"]
            return bool(counts["fired"] >= 3)

        await eventually(three)
        await api.http.patch(f"/api/v1/triggers/{trigger['id']}", json={"enabled": False})
        ticks = [
            one async for one in read_subject(api.orchestrator.connection, "TIMERS", subjects.tick("*", trigger["id"]))
        ]
        assert len(ticks) >= 3
    requests = await api.started(trigger)
    scheduled = [request.input.data["what"] for request in requests]
    assert len(set(scheduled)) == len(scheduled) >= 3
    assert all(
        request.execution_name == f"{trigger['id']}/at/{at}" for request, at in zip(requests, scheduled, strict=True)
    )
    assert all((request.origin.kind, request.priority) == ("cron", "high") for request in requests)
    found = await api.shown(trigger)
    assert found["last_fired_at"] is not None
    assert found["last_execution_id"] in {request.execution_id for request in requests}


async def test_a_missed_time_is_made_up_for_once_or_left_out(
    api: Any, workflow: str, eventually: Any, start_api: Callable[[], Any]
) -> None:
    """A schedule that began an hour ago, and of which nobody has heard since, until another process starts."""
    once = await api.trigger(workflow, "cron", cron="0 * * * *", misfire="run_once")
    skip = await api.trigger(workflow, "cron", cron="0 * * * *", misfire="skip")
    await api.database.execute(
        "UPDATE config.triggers SET scheduled_from = now() - interval '3 hours' WHERE id = ANY($1)",
        [once["id"], skip["id"]],
    )
    for _ in range(2):
        async with start_api():

            async def made_up() -> bool:
                return bool((await api.shown(once))["counts"]["fired"])

            await eventually(made_up)
    requests = await api.started(once)
    assert len(requests) == 1
    assert requests[0].execution_name.endswith(":00:00Z")
    assert not await api.started(skip)


async def test_a_schedule_that_nobody_can_read_any_more_holds_no_other_up(
    api: Any, workflow: str, eventually: Any, start_api: Callable[[], Any]
) -> None:
    """Its time zone has gone from this machine since."""
    odd = await api.trigger(workflow, "cron", cron="0 * * * *", misfire="run_once")
    await api.database.execute(
        "UPDATE config.triggers SET spec = jsonb_set(spec, '{timezone}', '\"Mars/Olympus\"') WHERE id = $1", odd["id"]
    )
    once = await api.trigger(workflow, "cron", cron="0 * * * *", misfire="run_once")
    await api.database.execute(
        "UPDATE config.triggers SET scheduled_from = now() - interval '3 hours' WHERE id = $1", once["id"]
    )
    async with start_api():

        async def made_up() -> bool:
            return bool((await api.shown(once))["counts"]["fired"])

        await eventually(made_up)
    shown = await api.http.get("/api/v1/triggers?kind=cron")
    assert next(one for one in shown.json()["items"] if one["id"] == odd["id"])["next_fire_at"] is None
    assert (await api.http.delete(f"/api/v1/triggers/{odd['id']}")).status_code == 204


async def test_a_schedule_without_a_trigger_is_removed_when_it_is_due(api: Any, workflow: str, eventually: Any) -> None:
    """What a crash between the two stores leaves behind."""
    trigger = await api.trigger(workflow, "cron", cron=EVERY_SECOND)
    await api.database.execute("DELETE FROM config.triggers WHERE id = $1", trigger["id"])
    subject = subjects.cron("default", trigger["id"])

    async def removed() -> bool:
        return await read_last(api.orchestrator.connection, "TIMERS", subject) is None

    await eventually(removed)


async def test_a_start_brings_schedules_in_line_with_triggers(
    api: Any, workflow: str, eventually: Any, start_api: Callable[[], Any]
) -> None:
    trigger = await api.trigger(workflow, "cron", cron="0 9 * * *")
    connection, subject = api.orchestrator.connection, subjects.cron("default", trigger["id"])
    await connection.jetstream_api("STREAM.PURGE.TIMERS", {"filter": subject})
    async with start_api():

        async def there() -> bool:
            return await read_last(connection, "TIMERS", subject) is not None

        await eventually(there)


async def test_a_trigger_is_tried_out_by_hand_enabled_or_not(api: Any, workflow: str) -> None:
    trigger = await api.trigger(
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
    cron = await api.trigger(workflow, "cron", cron="0 9 * * *", input={"what": "${{ trigger.scheduled_at }}"})
    assert (await api.http.post(f"/api/v1/triggers/{cron['id']}/fire")).status_code == 202


async def test_a_trigger_of_an_archived_workflow_says_so(api: Any) -> None:
    gone = await api.accepting()
    trigger = await api.trigger(gone, "webhook")
    await api.http.delete(f"/api/v1/workflows/{gone}")
    answer = await api.http.post(trigger["path"], json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "workflow_archived")


async def test_what_came_of_triggers_is_measured(api: Any, workflow: str) -> None:
    trigger = await api.trigger(workflow, "webhook", filter="event.yes")
    for yes in (True, False):
        await api.http.post(trigger["path"], json={"yes": yes})
    text = (await api.http.get("/metrics")).text
    for outcome in ("fired", "filtered"):
        assert f'millrace_api_triggers_total{{kind="webhook",outcome="{outcome}"}}' in text
    assert trigger["id"] not in text
