"""`http.get` and `http.request`: requests of a model, through the runner's guard."""

from __future__ import annotations

from typing import Any, Literal

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.executors.agent.tools.tool import (
    Described,
    Settings,
    config_invalid,
    model_name,
    read_settings,
)
from millrace_agent_runner.executors.http import Call, HttpExecutor, readable

HTTP_GET = "http.get"
HTTP_REQUEST = "http.request"
URL_CHARS_MAX = 8_000

_Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_METHODS: tuple[_Method, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_WITHOUT_EFFECT = frozenset({"GET", "HEAD"})
_URL = {"type": "string", "maxLength": URL_CHARS_MAX, "description": "Absolute http or https address."}


class _Settings(Settings, frozen=True, kw_only=True):
    hosts: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


class _RequestSettings(_Settings, frozen=True, kw_only=True):
    methods: tuple[_Method, ...] = _METHODS


def get(config: dict[str, Any], attempt: Attempt, http: HttpExecutor) -> Described:
    """Return the tool `http.get`.

    Raises:
        TerminalFailure: its settings are wrong.
    """
    settings = read_settings(HTTP_GET, config, _Settings)
    schema = _schema({"url": _URL})
    what = "Fetch a web address with HTTP GET and return its status and body."
    return _described(HTTP_GET, what, schema, settings, attempt, http, is_idempotent=True)


def request(config: dict[str, Any], attempt: Attempt, http: HttpExecutor) -> Described:
    """Return the tool `http.request`.

    Raises:
        TerminalFailure: its settings are wrong.
    """
    settings = read_settings(HTTP_REQUEST, config, _RequestSettings)
    if not settings.methods:
        raise config_invalid(HTTP_REQUEST, "`methods` names none")
    schema = _schema(
        {
            "url": _URL,
            "method": {"type": "string", "enum": list(settings.methods)},
            "query": {"type": "object", "description": "Parameters that are added to the address."},
            "json": {"description": "What is sent as JSON."},
            "body": {"type": "string", "description": "What is sent as text, in place of `json`."},
        },
        "method",
    )
    is_idempotent = _WITHOUT_EFFECT.issuperset(settings.methods)
    what = "Send an HTTP request and return the status and body of the answer."
    return _described(HTTP_REQUEST, what, schema, settings, attempt, http, is_idempotent=is_idempotent)


def _described(
    name: str,
    what: str,
    schema: dict[str, Any],
    settings: _Settings,
    attempt: Attempt,
    http: HttpExecutor,
    *,
    is_idempotent: bool,
) -> Described:
    hosts = frozenset(host.lower() for host in settings.hosts)
    if settings.headers and not hosts:
        raise config_invalid(name, "it has `headers` and no `hosts`: say which hosts may be sent them")
    headers = settings.headers

    async def call(arguments: dict[str, Any], _: Any) -> Any:
        sent = Call(
            url=arguments["url"],
            method=arguments.get("method", "GET"),
            query=arguments.get("query"),
            headers=headers,
            json_body=arguments.get("json"),
            body=arguments.get("body"),
        )
        answer = await http.send(sent, attempt.ends_at, attempt.secrets, hosts=hosts or None)
        return {"status": answer.status, "body": readable(answer)}

    only = f" Only these hosts: {', '.join(sorted(hosts))}." if hosts else ""
    return Described(
        name=model_name(name),
        description=what + only,
        schema=schema,
        call=call,
        settings=settings,
        is_idempotent=is_idempotent,
    )


def _schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": ["url", *required],
        "additionalProperties": False,
    }
