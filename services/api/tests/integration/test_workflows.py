"""Workflows: versions that never change, saved by anyone at once, and known to every process."""

import asyncio
from typing import Any

import asyncpg
import msgspec
import pytest

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last

pytestmark = pytest.mark.asyncio(loop_scope="module")

YAML = """
version: 1
name: {name}
steps:
  first: {{transform: {value}}}
"""


def source(name: str, value: Any = 1) -> bytes:
    return YAML.format(name=name, value=value).encode()


async def test_a_workflow_is_saved_with_its_source_and_published_under_its_hash(api: Any) -> None:
    answer = await api.http.post("/api/v1/workflows", content=source("saved"))
    assert answer.status_code == 201
    saved = answer.json()
    assert (saved["name"], saved["version"], saved["source_format"]) == ("saved", 1, "yaml")
    assert saved["source"].encode() == source("saved")
    assert answer.headers["location"] == f"/api/v1/workflows/{saved['id']}"
    stored = await read_last(api.orchestrator.connection, "DEFINITIONS", subjects.definition(saved["content_hash"]))
    assert stored is not None
    assert msgspec.json.decode(stored.payload) == saved["definition"]
    for ref in (saved["id"], "saved"):
        shown = (await api.http.get(f"/api/v1/workflows/{ref}")).json()
        assert {**saved, "warnings": None} == {**shown, "warnings": None}


async def test_a_second_workflow_of_a_name_is_refused(api: Any) -> None:
    first = (await api.http.post("/api/v1/workflows", content=source("taken"))).json()
    answer = await api.http.post("/api/v1/workflows", content=source("taken", 2))
    assert (answer.status_code, answer.json()["code"]) == (409, "workflow_exists")
    assert answer.json()["workflow_id"] == first["id"]


async def test_put_makes_versions_and_the_same_content_makes_none(api: Any) -> None:
    path = "/api/v1/workflows/versioned"
    answers = [await api.http.put(path, content=source("versioned", value)) for value in (1, 2, 2, '"2"', 1)]
    assert [answer.status_code for answer in answers] == [201, 201, 200, 201, 201]
    assert [answer.json()["version"] for answer in answers] == [1, 2, 2, 3, 4]
    listed = (await api.http.get(f"{path}/versions?limit=3")).json()
    assert ([one["version"] for one in listed["items"]], listed["total"]) == ([4, 3, 2], 4)
    rest = (await api.http.get(f"{path}/versions?limit=3&cursor={listed['next_cursor']}")).json()
    assert [one["version"] for one in rest["items"]] == [1]
    second = (await api.http.get(f"{path}/versions/2")).json()
    assert second["definition"]["steps"]["first"]["transform"] == 2
    missing = await api.http.get(f"{path}/versions/9")
    assert (missing.status_code, missing.json()["code"]) == (404, "workflow_version_not_found")


async def test_concurrent_saves_lose_no_version(api: Any) -> None:
    path = "/api/v1/workflows/crowded"
    answers = await asyncio.gather(*(api.http.put(path, content=source("crowded", value)) for value in range(20)))
    assert [answer.status_code for answer in answers] == [201] * 20
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 21))
    for answer in answers:
        saved = answer.json()
        version = (await api.http.get(f"{path}/versions/{saved['version']}")).json()
        assert version["content_hash"] == saved["content_hash"]


async def test_put_refuses_another_workflows_definition(api: Any) -> None:
    await api.http.put("/api/v1/workflows/mine", content=source("mine"))
    answer = await api.http.put("/api/v1/workflows/mine", content=source("yours"))
    assert (answer.status_code, answer.json()["code"]) == (409, "workflow_name_mismatch")
    unknown = await api.http.put("/api/v1/workflows/nobodys", content=source("yours"))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "workflow_not_found")


async def test_an_execution_keeps_to_the_version_that_was_saved_last(api: Any) -> None:
    """The hot path knows workflows from memory, which a save must not leave behind for even one request."""
    path = "/api/v1/workflows/current"
    for number in range(1, 6):
        await api.http.put(path, content=source("current", number))
        execution_id = await api.execution("current")
        detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
        assert detail["workflow_version"] == number
    pinned = await api.execution("current", version=2)
    assert (await api.http.get(f"/api/v1/executions/{pinned}")).json()["workflow_version"] == 2


async def test_an_archived_workflow_starts_nothing_and_comes_back_with_put(api: Any) -> None:
    path = "/api/v1/workflows/old"
    await api.http.put(path, content=source("old"))
    await api.execution("old")
    assert (await api.http.delete(path)).status_code == 204
    assert (await api.http.delete(path)).status_code == 204
    refused = await api.http.post(f"{path}/execute", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "workflow_archived")
    assert (await api.http.get(path)).json()["archived_at"] is not None
    assert "old" not in {one["name"] for one in (await api.http.get("/api/v1/workflows?limit=100")).json()["items"]}
    kept = (await api.http.get("/api/v1/workflows?archived=true&name=old")).json()
    assert kept["total"] == 1
    assert (await api.http.put(path, content=source("old"))).status_code == 200
    await api.execution("old")


async def test_lists_of_workflows_page_by_cursor(lonely_api: Any) -> None:
    for number in range(5):
        await lonely_api.http.put(f"/api/v1/workflows/w{number}", content=source(f"w{number}"))
    walked: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await lonely_api.http.get("/api/v1/workflows", params=query)).json()
        assert page["total"] == 5
        walked += [one["name"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert walked == ["w4", "w3", "w2", "w1", "w0"]


async def test_versions_cannot_be_changed_in_the_database(api: Any) -> None:
    await api.http.put("/api/v1/workflows/stone", content=source("stone"))
    with pytest.raises(asyncpg.RaiseError, match="never changes"):
        await api.database.execute("UPDATE config.workflow_versions SET source = ''")
    with pytest.raises(asyncpg.RaiseError, match="never changes"):
        await api.database.execute("DELETE FROM config.workflow_versions")


async def test_every_mistake_of_a_definition_is_named_with_its_place(api: Any) -> None:
    bad = b"""
name: broken
steps:
  load: {needs: [transfrom], transform: 1}
  transform: {transform: "${{ inputs.nothing }}"}
"""
    for path in ("/api/v1/workflows", "/api/v1/workflows/validate"):
        answer = await api.http.post(path, content=bad)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["code"] == "workflow_invalid"
        by_place = {error["loc"]: error for error in problem["errors"]}
        need = by_place["steps.load.needs[0]"]
        assert "transfrom" in need["msg"]
        assert "transform" in need["suggestion"]
        assert need["line"] == 4
        assert any(place.startswith("steps.transform") for place in by_place)
    assert (await api.http.get("/api/v1/workflows/broken")).status_code == 404


async def test_validate_saves_nothing(api: Any) -> None:
    answer = await api.http.post("/api/v1/workflows/validate", content=source("only-checked"))
    assert answer.status_code == 200
    assert (answer.json()["valid"], answer.json()["steps"]) == (True, 1)
    assert (await api.http.get("/api/v1/workflows/only-checked")).status_code == 404


async def test_null_and_absent_mean_the_same(api: Any) -> None:
    definition = {"name": "nulls", "steps": {"a": {"needs": None, "when": None, "retry": None, "transform": 1}}}
    first = await api.http.put("/api/v1/workflows/nulls", json=definition)
    assert first.status_code == 201, first.text
    again = await api.http.put("/api/v1/workflows/nulls", json={"name": "nulls", "steps": {"a": {"transform": 1}}})
    assert again.status_code == 200


async def test_another_api_process_hears_of_a_save(api: Any, start_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace_api.adapters.catalogue.FRESH_S", 3600.0)  # so that no entry ends by itself
    async with start_api() as other:
        await api.http.put("/api/v1/workflows/shared", content=source("shared", 1))
        await other.execution("shared")
        await api.http.put("/api/v1/workflows/shared", content=source("shared", 2))
        async with asyncio.timeout(60):
            while True:
                execution_id = await other.execution("shared")
                detail = (await other.http.get(f"/api/v1/executions/{execution_id}")).json()
                if detail["workflow_version"] == 2:
                    break
