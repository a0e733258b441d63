"""Usage over HTTP, from the rows that telemetry writes of calls to models."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/usage"
NOON = datetime(2026, 11, 19, 12, tzinfo=UTC)
SPAN = {"since": "2026-11-19T00:00:00Z", "until": "2026-11-21T00:00:00Z"}

CALL = """
INSERT INTO telemetry.llm_calls (execution_id, step, item, attempt, sequence, at, workspace, workflow_id, provider,
    model, duration_s, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd, time_to_first_token_s,
    error_category)
VALUES ($1, 'ask', -1, 1, $2, $3, $4, $5, $6, $7, 2, 100, 10, 40, 5, $8, 0.5, $9)
"""


@pytest_asyncio.fixture(loop_scope="module")
async def calls(api: Any, workflow: str) -> str:
    found = (await api.http.get(f"/api/v1/workflows/{workflow}")).json()
    workflow_id = str(found["id"])
    await api.database.execute("DELETE FROM telemetry.llm_calls")
    rows = [
        ("e1", 1, NOON, "default", workflow_id, "openai", "gpt-4o", Decimal("0.25"), None),
        ("e1", 2, NOON, "default", workflow_id, "openai", "gpt-4o", None, "llm_timeout"),
        ("child-of-e1", 1, NOON + timedelta(days=1), "default", "w-2", "groq", "llama", Decimal("0.5"), None),
        ("e3", 1, NOON, "other", "w-3", "groq", "llama", Decimal(8), None),
        ("e4", 1, NOON + timedelta(days=2), "default", "w-2", "groq", "llama", Decimal(16), None),
    ]
    await api.database.executemany(CALL, rows)
    return workflow_id


async def test_every_call_counts_once_and_its_unknown_price_is_told(api: Any, calls: str) -> None:
    shown = (await api.http.get(PATH, params=SPAN)).json()
    assert (shown["group_by"], shown["truncated"]) == ([], False)
    assert shown["items"] == [
        {
            "calls": 3,
            "failed_calls": 1,
            "input_tokens": 300,
            "output_tokens": 30,
            "cached_tokens": 120,
            "reasoning_tokens": 15,
            "cost_usd": 0.75,
            "unpriced_calls": 1,
            "average_duration_seconds": 2,
            "average_time_to_first_token_seconds": 0.5,
        }
    ]


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("day", [{"day": "2026-11-19"}, {"day": "2026-11-20"}]),
        ("month", [{"month": "2026-11"}]),
        ("model", [{"provider": "groq", "model": "llama"}, {"provider": "openai", "model": "gpt-4o"}]),
        ("provider", [{"provider": "groq"}, {"provider": "openai"}]),
        ("outcome", [{"outcome": "llm_timeout"}, {"outcome": "ok"}]),
        ("workspace", [{"workspace": "default"}]),
        (
            "provider, day",
            [{"day": "2026-11-19", "provider": "openai"}, {"day": "2026-11-20", "provider": "groq"}],
        ),
    ],
)
async def test_calls_are_added_up_by_what_they_have_in_common(
    api: Any, calls: str, group_by: str, expected: list[dict[str, str]]
) -> None:
    items = (await api.http.get(PATH, params={**SPAN, "group_by": group_by})).json()["items"]
    assert [{name: item[name] for name in expected[0]} for item in items] == expected
    assert sum(item["calls"] for item in items) == 3


async def test_usage_by_workflow_names_it_and_can_be_that_of_one(api: Any, calls: str, workflow: str) -> None:
    items = (await api.http.get(PATH, params={**SPAN, "group_by": "workflow"})).json()["items"]
    by_id = {item["workflow_id"]: item for item in items}
    assert by_id[calls]["calls"] == 2
    assert by_id[calls]["workflow"] is not None
    assert by_id["w-2"]["workflow"] is None
    one = (await api.http.get(PATH, params={**SPAN, "workflow": workflow})).json()["items"]
    assert [item["calls"] for item in one] == [2]


async def test_the_operator_sees_all_workspaces_together(api: Any, calls: str) -> None:
    items = (await api.http.get(PATH, params={**SPAN, "workspace": "*", "group_by": "workspace"})).json()["items"]
    assert [(item["workspace"], item["cost_usd"]) for item in items] == [("default", 0.75), ("other", 8)]


async def test_a_group_that_there_is_not_is_refused(api: Any) -> None:
    for wrong in ("hour", "day,day"):
        answer = await api.http.get(PATH, params={"group_by": wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


async def test_before_there_are_tables_nothing_was_used(lonely_api: Any) -> None:
    assert (await lonely_api.http.get(PATH, params={"group_by": "day"})).json()["items"] == []
