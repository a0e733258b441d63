"""How the client takes answers that a healthy server does not give. What a real one answers: tests/cli."""

from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest

from millrace.client import Client, ClientError, RequestRefused, ServerNotFound, ServerUnavailable, ServerUnreachable

ACCEPTED = {"execution_id": "e1", "execution_name": None, "workflow_id": "w", "status": "pending", "created_at": ""}
Script = Iterable[httpx.Response | Exception]


class Scripted(httpx.BaseTransport):
    """Answers with one thing after the other, and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self._script = iter(script)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._script)
        if isinstance(answer, Exception):
            raise answer
        return answer


def scripted(*script: httpx.Response | Exception) -> tuple[Client, Scripted, list[float]]:
    transport, pauses = Scripted(script), list[float]()
    return Client("http://api", "the-key", transport=transport, pause=pauses.append), transport, pauses


def away() -> httpx.Response:
    return httpx.Response(503, json={"detail": "the message bus does not answer", "code": "bus_unavailable"})


def accepted() -> httpx.Response:
    return httpx.Response(202, json=ACCEPTED)


def test_reading_is_repeated_with_growing_pauses():
    client, transport, pauses = scripted(away(), httpx.ReadError("reset"), httpx.Response(200, json={"id": "e1"}))
    assert client.execution("e1")["id"] == "e1"
    assert len(transport.requests) == 3
    assert pauses == [0.2, 0.4]


def test_a_start_with_a_name_is_repeated():
    client, transport, _ = scripted(httpx.ReadTimeout("late"), away(), accepted())
    client.start("w", {"n": 1}, execution_name="once")
    assert len({request.content for request in transport.requests}) == 1
    assert len(transport.requests) == 3


@pytest.mark.parametrize("failure", [httpx.ReadTimeout("late"), httpx.ReadError("reset")], ids=type)
def test_a_start_without_a_name_may_have_been_done_and_is_not_repeated(failure: Exception):
    client, transport, _ = scripted(failure, accepted())
    with pytest.raises(ServerUnavailable, match="not answered"):
        client.start("w")
    assert len(transport.requests) == 1


def test_what_was_never_sent_is_repeated():
    client, transport, _ = scripted(httpx.ConnectError("refused"), accepted())
    assert client.start("w")["execution_id"] == "e1"
    assert len(transport.requests) == 2


def test_a_cancel_is_never_repeated_since_a_second_one_means_more():
    client, transport, _ = scripted(away(), httpx.Response(202, json={}))
    with pytest.raises(ServerUnavailable):
        client.cancel("e1")
    assert len(transport.requests) == 1


REPEATED: dict[str, Callable[[Client], Any]] = {
    "a signal with an id": lambda client: client.signal("e1", "paid", {"n": 1}, signal_id="s1"),
    "a retry with a name": lambda client: client.retry("e1", execution_name="again"),
    "a fork with a name": lambda client: client.fork("e1", "b", values={}, execution_name="again"),
    "a bulk retry, which retries each once": lambda client: client.retry_many(workflow="w"),
    "a bulk cancel that does nothing": lambda client: client.cancel_many(workflow="w", dry_run=True),
    "a comparison": lambda client: client.compare("e1", "e2"),
}
NOT_REPEATED: dict[str, Callable[[Client], Any]] = {
    "a signal without an id": lambda client: client.signal("e1", "paid"),
    "a pause": lambda client: client.pause("e1"),
    "a resume": lambda client: client.resume("e1"),
    "an approval": lambda client: client.approve("e1", "ok"),
    "a rejection": lambda client: client.reject("e1", "ok"),
    "a step that goes on": lambda client: client.continue_step("e1", "ok"),
    "a retry without a name": lambda client: client.retry("e1"),
    "a replay without a name": lambda client: client.replay("e1"),
    "a bulk cancel": lambda client: client.cancel_many(workflow="w"),
}


@pytest.mark.parametrize("what", REPEATED)
def test_what_twice_is_the_same_as_once_is_repeated(what: str):
    client, transport, _ = scripted(away(), httpx.Response(200, json={}))
    REPEATED[what](client)
    assert len({(request.url, request.content) for request in transport.requests}) == 1
    assert len(transport.requests) == 2


@pytest.mark.parametrize("what", NOT_REPEATED)
def test_what_twice_may_be_more_than_once_is_not_repeated(what: str):
    client, transport, _ = scripted(away(), httpx.Response(200, json={}))
    with pytest.raises(ServerUnavailable):
        NOT_REPEATED[what](client)
    assert len(transport.requests) == 1


def test_after_a_few_times_it_gives_up_and_asks_what_a_person_would():
    client, transport, _ = scripted(*[httpx.ConnectError("refused")] * 10)
    with pytest.raises(ServerUnreachable, match=r"nobody answers at http://api .*is `millrace up` running"):
        client.execution("e1")
    assert len(transport.requests) == 4


def test_a_refusal_tells_every_mistake():
    errors = [
        {"loc": "steps.a.needs[0]", "msg": 'there is no step "x"', "line": 7, "suggestion": 'did you mean "y"?'},
        {"loc": ["input", "leads", 0, "company"], "msg": "the field is required"},
    ]
    problem = {"detail": "2 mistakes", "code": "workflow_invalid", "errors": errors}
    client, _, _ = scripted(httpx.Response(422, json=problem))
    with pytest.raises(RequestRefused) as refused:
        client.save_workflow(b"", "w")
    assert str(refused.value).splitlines() == [
        "2 mistakes",
        '  line 7: steps.a.needs[0]: there is no step "x"; did you mean "y"?',
        "  input.leads[0].company: the field is required",
    ]
    assert (refused.value.status, refused.value.code, refused.value.errors) == (422, "workflow_invalid", errors)


def test_an_unknown_key_says_what_to_set():
    client, _, _ = scripted(httpx.Response(401, json={"detail": "the API key is not known", "code": "unauthorized"}))
    with pytest.raises(RequestRefused, match="set MILLRACE_API_KEY"):
        client.executions()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
def test_an_answer_of_something_else_says_so(body: bytes):
    client, _, _ = scripted(httpx.Response(404, content=body))
    with pytest.raises(ClientError, match="is that a Millrace api"):
        client.execution("e1")


def test_the_key_is_sent_and_redirects_are_not_followed():
    client, transport, _ = scripted(httpx.Response(307, headers={"Location": "http://thief/"}))
    with pytest.raises(ClientError):
        client.execution("e1")
    assert [str(request.url) for request in transport.requests] == ["http://api/api/v1/executions/e1"]
    assert transport.requests[0].headers["authorization"] == "Bearer the-key"


CALLS: dict[str, Callable[[Client], Any]] = {
    "/api/v1/executions/..%2F..%2Fx": lambda client: client.execution("../../x"),
    "/api/v1/workflows/a%3Fb%23c": lambda client: client.workflow("a?b#c"),
    "/api/v1/executions/%20": lambda client: client.execution(""),
    "/api/v1/executions/e%2F1/steps/a%2Fb/approve": lambda client: client.approve("e/1", "a/b"),
    "/api/v1/executions/a%3F/compare/%2Fb": lambda client: client.compare("a?", "/b"),
}


@pytest.mark.parametrize("path", CALLS)
def test_ids_cannot_change_the_path(path: str):
    client, transport, _ = scripted(httpx.Response(200, json={}))
    CALLS[path](client)
    assert transport.requests[0].url.raw_path.decode() == path


def test_a_run_that_takes_longer_than_the_wait_is_shown_as_it_is():
    client, transport, _ = scripted(accepted(), httpx.Response(200, json={"id": "e1", "status": "running"}))
    assert client.run("w", wait_s=3)["status"] == "running"
    assert transport.requests[0].url.params["wait"] == "3"


def test_a_page_of_some_other_server_is_no_answer():
    client, _, _ = scripted(httpx.Response(200, text="<html>", headers={"Content-Type": "text/html"}))
    with pytest.raises(RequestRefused, match="answered 200; is that a Millrace api"):
        client.execution("e1")


@pytest.mark.parametrize("key", ["the-key\r", "the-key\n", "th\u00e9-key"])
def test_what_cannot_be_a_key_is_not_sent_and_not_shown(key: str):
    with pytest.raises(ServerNotFound, match="set MILLRACE_API_KEY anew") as refused:
        Client("http://api", key)
    assert key.strip() not in str(refused.value)
