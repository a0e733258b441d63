"""Every way to ask wrongly gets a problem document that names what is wrong, and never a 500."""

import asyncio
import os
import signal
from typing import Any

import pytest

from millrace_api.domain.problems import PROBLEMS

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTIONS = "/api/v1/executions"
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"
DEEP = b'{"workflow":"WORKFLOW","input":{"who":' + b"[" * 5000 + b"]" * 5000 + b"}}"

BAD_BODIES = [
    pytest.param(b"", "missing", ["body", "workflow"], id="empty"),
    pytest.param(b"{", "json_invalid", ["body"], id="not-json"),
    pytest.param(b"[]", "type_invalid", ["body"], id="not-an-object"),
    pytest.param(b'{"workflow":"\xff"}', "utf8_invalid", ["body"], id="not-utf-8"),
    pytest.param(b'{"workflow":7}', "type_invalid", ["body", "workflow"], id="workflow-number"),
    pytest.param(b'{"workflow":""}', "type_invalid", ["body", "workflow"], id="workflow-empty"),
    pytest.param(b'{"workflow":"WORKFLOW","inputs":{}}', "extra_forbidden", ["body", "inputs"], id="unknown-field"),
    pytest.param(b'{"workflow":"WORKFLOW","version":0}', "type_invalid", ["body", "version"], id="version-zero"),
    pytest.param(b'{"workflow":"WORKFLOW","input":[]}', "type_invalid", ["body", "input"], id="input-list"),
    pytest.param(b'{"workflow":"WORKFLOW","priority":"urgent"}', "type_invalid", ["body", "priority"], id="priority"),
    pytest.param(b'{"workflow":"WORKFLOW","labels":{"a":1}}', "type_invalid", None, id="label-number"),
    pytest.param(b'{"workflow":"WORKFLOW","execution_name":""}', "type_invalid", None, id="name-empty"),
    pytest.param(
        b'{"workflow":"WORKFLOW","execution_name":"' + b"n" * 201 + b'"}', "type_invalid", None, id="name-long"
    ),
    pytest.param(
        b'{"workflow":"WORKFLOW","input":{"who":"a\\u0000b"}}', "nul_character", ["body", "input", "who"], id="nul"
    ),
    pytest.param(
        b'{"workflow":"WORKFLOW","execution_name":"a\\u0000"}',
        "nul_character",
        ["body", "execution_name"],
        id="nul-name",
    ),
    pytest.param(b'{"workflow":"WORKFLOW","input":{"who":1e999}}', "number_out_of_range", None, id="huge-float"),
    pytest.param(
        b'{"workflow":"WORKFLOW","input":{"who":' + b"9" * 40 + b"}}", "number_out_of_range", None, id="huge-integer"
    ),
    pytest.param(
        b'{"workflow":"WORKFLOW","input":{"who":' + b"9" * 9000 + b"}}", "number_out_of_range", None, id="huger-integer"
    ),
    pytest.param(DEEP, "too_deep", None, id="deep"),
    pytest.param(
        b'{"workflow":"WORKFLOW","input":{"who":' + b"[" * 70 + b"]" * 70 + b"}}", "too_deep", None, id="deepish"
    ),
    pytest.param(b'{"workflow":"WORKFLOW","input":{"who":"\\ud800"}}', "json_invalid", ["body"], id="surrogate"),
    pytest.param(b'{"workflow":"WORKFLOW","input":{"who":NaN}}', "json_invalid", ["body"], id="nan"),
]


@pytest.mark.parametrize(("body", "kind", "place"), BAD_BODIES)
async def test_a_bad_body_is_refused_by_name(api: Any, body: bytes, kind: str, place: list[str] | None) -> None:
    workflow = await api.workflow()
    answer = await api.http.post(EXECUTIONS, content=body.replace(b"WORKFLOW", workflow.encode()))
    problem = checked(answer, 422, "request_invalid")
    assert problem["errors"][0]["type"] == kind
    if place is not None:
        assert problem["errors"][0]["loc"] == place


def checked(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Return the problem document, having checked what all of them have in common."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status == PROBLEMS[code].status
    assert problem["title"] == PROBLEMS[code].title
    assert problem["type"].endswith(code)
    assert problem["detail"]
    for leak in ("Traceback", "SELECT", "asyncpg", "site-packages"):
        assert leak not in answer.text
    return problem


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/v1/executions/", 404, "not_found"),
        ("PATCH", "/api/v1/executions", 405, "method_not_allowed"),
        ("GET", f"/api/v1/executions/{UNKNOWN_ID}", 404, "execution_not_found"),
        ("GET", "/api/v1/executions/not-an-id", 404, "execution_not_found"),
        ("GET", "/api/v1/executions/a.b.%3E", 404, "execution_not_found"),
        ("GET", "/api/v1/executions/*", 404, "execution_not_found"),
        ("GET", "/api/v1/executions/%00", 422, "request_invalid"),
        ("GET", f"/api/v1/executions/{UNKNOWN_ID}/timeline", 404, "execution_not_found"),
        ("GET", f"/api/v1/executions/{UNKNOWN_ID}/events", 404, "execution_not_found"),
        ("GET", f"/api/v1/executions/{UNKNOWN_ID}/steps/a", 404, "execution_not_found"),
        ("POST", f"/api/v1/executions/{UNKNOWN_ID}/cancel", 404, "execution_not_found"),
        ("GET", "/api/v1/workflows/none", 404, "workflow_not_found"),
        ("GET", "/api/v1/workflows/none%00", 422, "request_invalid"),
        ("GET", "/api/v1/workflows/none/versions", 404, "workflow_not_found"),
        ("GET", "/api/v1/workflows/none/metrics", 404, "workflow_not_found"),
        ("GET", "/api/v1/workflows/none/executions", 404, "workflow_not_found"),
        ("DELETE", "/api/v1/workflows/none", 404, "workflow_not_found"),
        ("POST", "/api/v1/workflows/none/execute", 404, "workflow_not_found"),
        ("GET", "/api/v1/executions?workflow_id=none", 404, "workflow_not_found"),
        ("GET", "/api/v1/executions?workflow_id=a%00b", 422, "request_invalid"),
        ("GET", "/api/v1/executions?limit=0", 422, "request_invalid"),
        ("GET", "/api/v1/executions?limit=101", 422, "request_invalid"),
        ("GET", "/api/v1/executions?limit=ten", 422, "request_invalid"),
        ("GET", "/api/v1/executions?skip=-1", 422, "request_invalid"),
        ("GET", "/api/v1/executions?status=done", 422, "request_invalid"),
        ("GET", "/api/v1/executions?sort=name", 422, "request_invalid"),
        ("GET", "/api/v1/executions?cursor=nonsense", 422, "request_invalid"),
        ("GET", "/api/v1/executions?cursor=WzEsMl0", 422, "request_invalid"),
        ("GET", "/api/v1/executions?started_after=yesterday", 422, "request_invalid"),
        ("GET", "/api/v1/executions?label=a%00b", 422, "request_invalid"),
        ("GET", "/api/v1/executions?execution_name=%00", 422, "request_invalid"),
        ("GET", "/api/v1/workflows/x/versions/0", 422, "request_invalid"),
        ("GET", "/api/v1/workflows/x/versions/99999999999", 422, "request_invalid"),
    ],
)
async def test_a_bad_request_is_refused_by_name(api: Any, method: str, path: str, status: int, code: str) -> None:
    checked(await api.http.request(method, path), status, code)


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "soon", "inf"])
async def test_wait_has_bounds(api: Any, wait: str) -> None:
    answer = await api.http.post(f"{EXECUTIONS}?wait={wait}", json={"workflow": await api.workflow()})
    assert checked(answer, 422, "request_invalid")["errors"][0]["loc"] == ["query", "wait"]


async def test_input_is_checked_against_the_workflow(api: Any) -> None:
    workflow = await api.workflow(
        inputs={"who": {"type": "string"}, "count": {"type": "integer", "minimum": 1, "default": 1}}
    )
    answer = await api.http.post(EXECUTIONS, json={"workflow": workflow, "input": {"count": 0, "whom": "x"}})
    problem = checked(answer, 422, "input_invalid")
    assert {tuple(error["loc"]) for error in problem["errors"]} == {
        ("input", "who"),
        ("input", "count"),
        ("input", "whom"),
    }


async def test_no_version_and_another_workflow_in_the_body(api: Any) -> None:
    workflow = await api.workflow()
    missing = await api.http.post(EXECUTIONS, json={"workflow": workflow, "version": 2})
    checked(missing, 404, "workflow_version_not_found")
    other = await api.http.post(f"/api/v1/workflows/{workflow}/execute", json={"workflow": "another"})
    checked(other, 422, "request_invalid")
    same = await api.http.post(f"/api/v1/workflows/{workflow}/execute")
    assert same.status_code == 202


async def test_bodies_have_limits(api: Any) -> None:
    workflow = await api.workflow()
    input_ = await api.http.post(EXECUTIONS, content=b'{"workflow":"' + b"x" * (8 * 1024 * 1024) + b'"}')
    checked(input_, 413, "body_too_large")
    definition = await api.http.post("/api/v1/workflows", content=b"#" * (1024 * 1024 + 1))
    checked(definition, 413, "body_too_large")

    async def endless() -> Any:
        for _ in range(9):
            yield b" " * (1024 * 1024)

    chunked = await api.http.post(EXECUTIONS, content=endless())
    checked(chunked, 413, "body_too_large")
    trigger = await api.http.post("/api/v1/triggers", content=b"#" * (64 * 1024 + 1))
    assert "over 64 KiB" in checked(trigger, 413, "body_too_large")["detail"]
    assert (await api.http.post(EXECUTIONS, json={"workflow": workflow})).status_code == 202


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: ",
    ],
    ids=["line", "header", "trailer"],
)
async def test_heads_have_limits(api: Any, begin: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", api.http.base_url.port)
    writer.write(begin)

    async def send_on() -> None:
        for _ in range(512):  # 32 MiB, far more than the kernel keeps for the two of them
            writer.write(b"x" * 64 * 1024)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await send_on()
    writer.close()


@pytest.mark.parametrize(
    "query",
    [
        "started_after=0001-01-01T00:00:00%2B14:00",
        "started_before=9999-12-31T23:00:00-14:00",
        "&".join(f"label=a{number}" for number in range(33)),
    ],
    ids=["early", "late", "labels"],
)
async def test_criteria_have_limits(api: Any, query: str) -> None:
    checked(await api.http.get(f"{EXECUTIONS}?{query}"), 422, "request_invalid")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Bearer \xe9"},
    ],
)
async def test_without_the_key_nothing_is_looked_at(api: Any, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path in (("POST", EXECUTIONS), ("GET", f"{EXECUTIONS}?limit=bad"), ("POST", "/api/v1/workflows")):
        answer = await api.http.request(method, path, content=b"{not json", headers=encoded)
        checked(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_operations_need_no_key_and_tell_the_dependencies(api: Any) -> None:
    headers = {"Authorization": ""}
    assert (await api.http.get("/healthz", headers=headers)).json() == {"status": "alive"}
    ready = await api.http.get("/readyz", headers=headers)
    assert (ready.status_code, ready.json()["checks"]) == (200, {"nats": "ok", "postgres": "ok"})
    await api.execution(await api.workflow())
    text = (await api.http.get("/metrics", headers=headers)).text
    assert 'millrace_api_requests_total{method="POST",route="/api/v1/executions",status="202"}' in text
    await api.http.get("/some/unknown/path", headers=headers)
    assert "/some/unknown/path" not in (await api.http.get("/metrics", headers=headers)).text


async def test_the_openapi_document_describes_every_route(api: Any) -> None:
    document = (await api.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    for path in (EXECUTIONS, "/api/v1/workflows/{ref}", "/api/v1/executions/{execution_id}/timeline", "/readyz"):
        assert path in document["paths"]
    start = document["paths"][EXECUTIONS]["post"]
    assert start["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Launch"}
    assert start["security"] == [{"key": []}]
    references = {part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])
    assert (await api.http.get("/docs")).status_code == 200
    assert (await api.http.get("/api/v1/schema", headers={"Authorization": ""})).json()["type"] == "object"


async def test_an_unforeseen_error_says_nothing_of_itself(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(type(api.running.adapters.workflows), "get", broken)
    answer = await api.http.get("/api/v1/workflows/x")
    checked(answer, 500, "internal_error")
    assert "secret" not in answer.text


async def test_the_bus_being_away_is_a_503_and_never_a_202(fresh_nats: Any, start_api_on: Any, eventually: Any) -> None:
    async with start_api_on(fresh_nats.nats_url) as api:
        workflow = await api.workflow()
        await api.execution(workflow)
        os.kill(fresh_nats.pid("nats"), signal.SIGSTOP)  # it is there, and does not answer
        try:
            answer = await api.http.post(EXECUTIONS, json={"workflow": workflow, "execution_name": "one"})
            checked(answer, 503, "bus_unavailable")
            assert answer.headers["retry-after"]
            assert (await api.http.get("/readyz")).status_code == 503
        finally:
            os.kill(fresh_nats.pid("nats"), signal.SIGCONT)

        async def answered() -> bool:
            again = await api.http.post(EXECUTIONS, json={"workflow": workflow, "execution_name": "one"})
            return again.status_code in {200, 202}

        assert await eventually(answered)


async def test_the_bus_may_restart_under_the_api(fresh_nats: Any, start_api_on: Any) -> None:
    async with start_api_on(fresh_nats.nats_url) as api:
        workflow = await api.workflow()
        first = await api.execution(workflow)
        fresh_nats.kill("nats")
        answers = await asyncio.gather(*(api.http.post(EXECUTIONS, json={"workflow": workflow}) for _ in range(20)))
        await asyncio.to_thread(fresh_nats.wait_ready, "nats")
        for answer in answers:
            assert answer.status_code in {202, 503}
            if answer.status_code == 202:
                shown = await api.http.get(answer.headers["location"])
                assert shown.status_code == 200
        assert (await api.http.get(f"{EXECUTIONS}/{first}")).status_code == 200
