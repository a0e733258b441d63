"""MCP servers over HTTP (the protocol's "streamable HTTP"), through the runner's guard."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.executors.agent.tools.mcp_session import INITIALIZE, PROTOCOL_VERSION, broken, result_of
from millrace_agent_runner.executors.http import Answer, Call, HttpExecutor

_OK, _MULTIPLE_CHOICES = 200, 300
_SESSION = "mcp-session-id"


class HttpServer:
    """A server, as one attempt asks it.

    Args:
        name: what errors call it.
        url: where it is.
        headers: sent with each request; they go to no other host.
        http: sends requests.
        attempt: ends them.
        secrets: what must not follow a redirect.
    """

    def __init__(
        self,
        name: str,
        url: str,
        headers: dict[str, str],
        http: HttpExecutor,
        attempt: Attempt,
        secrets: tuple[str, ...],
    ) -> None:
        self._name = name
        self._url = url
        self._headers = {**headers, "accept": "application/json, text/event-stream"}
        self._http = http
        self._attempt = attempt
        self._secrets = secrets
        self._ids = itertools.count(1)
        self._is_open = False

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the server.

        Raises:
            StepFailure: it refuses, or does not answer.
        """
        if not self._is_open:
            await self._ask("initialize", INITIALIZE)
            self._headers["mcp-protocol-version"] = PROTOCOL_VERSION
            await self._send({"method": "notifications/initialized"})
            self._is_open = True
        return await self._ask(method, params)

    async def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        answer = await self._send({"id": number, "method": method, "params": params})
        if _SESSION in answer.headers:
            self._headers[_SESSION] = answer.headers[_SESSION]
        for message in _messages(answer):
            if isinstance(message, dict) and message.get("id") == number and "method" not in message:
                return result_of(self._name, message)
        raise broken(self._name, f"did not reply to {method}")

    async def _send(self, message: dict[str, Any]) -> Answer:
        call = Call(url=self._url, method="POST", headers=self._headers, json_body={"jsonrpc": "2.0", **message})
        answer = await self._http.send(call, self._attempt.ends_at, self._secrets, hosts=_host_of(self._url))
        if not _OK <= answer.status < _MULTIPLE_CHOICES:
            raise broken(self._name, f"answered {answer.status}")
        return answer


def _messages(answer: Answer) -> list[Any]:
    """Return the messages of an answer: one as JSON, or those of an event stream."""
    documents = [answer.body]
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        events = answer.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
        documents = [
            b"\n".join(line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
            for event in events
        ]
    found = []
    for document in documents:
        try:
            found.append(msgspec.json.decode(document))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return found


def _host_of(url: str) -> frozenset[str] | None:
    import httpx

    try:
        return frozenset({httpx.URL(url).host.lower()})
    except httpx.InvalidURL:
        return None  # building the request says what is wrong
