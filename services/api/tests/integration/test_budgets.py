"""Budgets over HTTP: the tables are the runners', and their migrations are run as they do."""

from typing import Any

import pytest

from millrace_shared.postgres import migrate

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/budgets"
TODAY = "'day:' || to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD') || ':default:'"


@pytest.fixture
def runners_schema(api: Any) -> Any:
    return lambda: migrate(api.database, "spend", "millrace_agent_runner")


async def test_a_budget_is_saved_replaced_listed_with_what_is_used_and_removed(
    api: Any, runners_schema: Any, workflow: str
) -> None:
    await runners_schema()
    saved = await api.http.put(PATH, json={"period": "day", "max_cost_usd": 12.5, "max_calls": 100})
    assert saved.status_code == 200, saved.text
    nothing = {"cost_usd": 0, "tokens": 0, "calls": 0}
    assert saved.json() == {
        "workflow_id": None,
        "workflow": None,
        "period": "day",
        "max_cost_usd": 12.5,
        "max_tokens": None,
        "max_calls": 100,
        "on_breach": "stop",
        "spent": nothing,
        "reserved": nothing,
        "raises": 0,
        "breached_at": None,
        "updated_at": saved.json()["updated_at"],
        "updated_by": "api-key:bootstrap",
    }
    await api.database.execute(
        "INSERT INTO spend.accounts (scope, spent_usd, spent_tokens, spent_calls, reserved_usd, reserved_tokens, "
        f"reserved_calls, breached_at) VALUES ({TODAY} || '*', 3.25, 700, 2, 0.5, 90, 1, now())"
    )
    replaced = (await api.http.put(PATH, json={"period": "day", "max_cost_usd": 20, "on_breach": "ask"})).json()
    assert (replaced["max_cost_usd"], replaced["max_calls"], replaced["on_breach"]) == (20, None, "ask")
    assert replaced["spent"] == {"cost_usd": 3.25, "tokens": 700, "calls": 2}
    assert replaced["reserved"] == {"cost_usd": 0.5, "tokens": 90, "calls": 1}
    assert replaced["breached_at"] is not None
    await api.http.put(PATH, json={"workflow": workflow, "period": "month", "max_tokens": 5})
    listed = (await api.http.get(PATH)).json()
    assert (listed["total"], [one["period"] for one in listed["items"]]) == (2, ["day", "month"])
    assert workflow in {listed["items"][1]["workflow_id"], listed["items"][1]["workflow"]}
    exactly = {"workflow": workflow, "period": "month"}
    assert (await api.http.delete(PATH, params=exactly)).status_code == 204
    again = await api.http.delete(PATH, params=exactly)
    assert (again.status_code, again.json()["code"]) == (404, "budget_not_found")
    assert (await api.http.get(PATH)).json()["total"] == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"period": "day"}, []),
        ({"max_calls": 1}, ["period"]),
        ({"period": "week", "max_calls": 1}, ["period"]),
        ({"period": "day", "max_calls": 0}, ["max_calls"]),
        ({"period": "day", "max_cost_usd": -1}, ["max_cost_usd"]),
        ({"period": "day", "max_calls": 1, "on_breach": "panic"}, ["on_breach"]),
        ({"period": "day", "max_calls": 1, "workspace": "other"}, ["workspace"]),
    ],
)
async def test_a_budget_that_cannot_be_meant_is_refused_where_it_is_wrong(api: Any, body: Any, place: Any) -> None:
    answer = await api.http.put(PATH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["loc"] == ["body", *place]


async def test_a_budget_of_a_workflow_needs_the_workflow(api: Any) -> None:
    answer = await api.http.put(PATH, json={"workflow": "nobody", "period": "day", "max_calls": 1})
    assert (answer.status_code, answer.json()["code"]) == (404, "workflow_not_found")


async def test_without_runners_there_are_no_budgets_to_keep(lonely_api: Any) -> None:
    for answer in (
        await lonely_api.http.get(PATH),
        await lonely_api.http.put(PATH, json={"period": "day", "max_calls": 1}),
        await lonely_api.http.delete(PATH, params={"period": "day"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "budgets_unavailable")
