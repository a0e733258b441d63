"""Rate limits of models over HTTP: the table is the runners', and its migrations are run as they do."""

from typing import Any

import pytest

from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_api.routes.rate_limits import _operator_only
from millrace_shared.postgres import migrate

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/rate-limits"


@pytest.fixture
def runners_schema(api: Any) -> Any:
    return lambda: migrate(api.database, "spend", "millrace_agent_runner")


async def test_a_limit_is_saved_replaced_listed_and_removed(api: Any, runners_schema: Any) -> None:
    await runners_schema()
    body = {"provider": "groq", "model": "llama-3.1-8b-instant", "tokens_per_minute": 6_000, "requests_per_minute": 30}
    saved = await api.http.put(PATH, json=body)
    assert saved.status_code == 200, saved.text
    assert saved.json() == {
        **body,
        "workspace": "*",
        **{key: saved.json()[key] for key in ("updated_at", "updated_by")},
    }
    assert saved.json()["updated_by"] == "api-key:bootstrap"
    replaced = await api.http.put(PATH, json={**body, "requests_per_minute": None})
    assert replaced.json()["requests_per_minute"] is None
    await api.http.put(PATH, json={"provider": "groq", "workspace": "team", "requests_per_minute": 5})
    listed = (await api.http.get(PATH)).json()
    assert listed["total"] == 2
    assert [(one["model"], one["workspace"]) for one in listed["items"]] == [("*", "team"), (body["model"], "*")]
    assert len((await api.http.get(PATH, params={"limit": 1, "skip": 1})).json()["items"]) == 1
    exactly = {"provider": "groq", "workspace": "team"}
    assert (await api.http.delete(PATH, params=exactly)).status_code == 204
    again = await api.http.delete(PATH, params=exactly)
    assert (again.status_code, again.json()["code"]) == (404, "rate_limit_not_found")
    assert (await api.http.get(PATH)).json()["total"] == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"provider": "groq"}, []),
        ({"requests_per_minute": 1}, ["provider"]),
        ({"provider": "groq", "requests_per_minute": 0}, ["requests_per_minute"]),
        ({"provider": "groq", "tokens_per_minute": 10**13}, ["tokens_per_minute"]),
        ({"provider": "a b", "tokens_per_minute": 1}, ["provider"]),
        ({"provider": "groq", "rpm": 1}, ["rpm"]),
    ],
)
async def test_a_limit_that_cannot_be_meant_is_refused_where_it_is_wrong(api: Any, body: Any, place: Any) -> None:
    answer = await api.http.put(PATH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["loc"] == ["body", *place]


async def test_without_runners_there_are_no_limits_to_keep(lonely_api: Any) -> None:
    for answer in (
        await lonely_api.http.get(PATH),
        await lonely_api.http.put(PATH, json={"provider": "groq", "tokens_per_minute": 1}),
        await lonely_api.http.delete(PATH, params={"provider": "groq"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "rate_limits_unavailable")


async def test_limits_are_the_operators(api: Any) -> None:
    answer = await api.http.get(PATH, headers={"Authorization": "Bearer somebody-else"})
    assert answer.status_code == 401
    with pytest.raises(Refused, match="ask whoever runs this installation") as caught:
        _operator_only(Identity("default", "api-key:other"))
    assert caught.value.code == "operator_only"
