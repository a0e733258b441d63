"""`web.scrape` and `web.search`: the web as Markdown, by Firecrawl (API v2), hosted or the operator's own.

The operator sets FIRECRAWL_API_KEY, or FIRECRAWL_BASE_URL for a server of their own; one that is not on the public
internet is named in MILLRACE_HTTP_ALLOW, too. Firecrawl fetches pages from where it stands, so addresses are judged
here before it is asked: no model reads the operator's network through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.secrets import scrub
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.tools.tool import (
    Described,
    Settings,
    config_invalid,
    model_name,
    read_settings,
)
from millrace_agent_runner.executors.http import Call, HttpExecutor, readable

WEB_SCRAPE = "web.scrape"
WEB_SEARCH = "web.search"
BASE_URL = "https://api.firecrawl.dev"
TIMEOUT_S = 90.0
RESULTS_DEFAULT, RESULTS_MAX = 5, 20
ERROR_CHARS_MAX = 300
_BUSY, _SERVER_ERRORS = 429, 500


class _SearchSettings(Settings, frozen=True, kw_only=True):
    results_max: Annotated[int, msgspec.Meta(ge=1, le=RESULTS_MAX)] = RESULTS_DEFAULT


def scrape(config: dict[str, Any], attempt: Attempt, http: HttpExecutor, environment: Mapping[str, str]) -> Described:
    """Return the tool `web.scrape`.

    Raises:
        TerminalFailure: its settings are wrong, or the operator has set up no Firecrawl.
    """
    settings = read_settings(WEB_SCRAPE, config, Settings)
    firecrawl = _Firecrawl(WEB_SCRAPE, http, attempt, environment)

    async def call(arguments: dict[str, Any], _: Any) -> Any:
        await http.judge(arguments["url"])
        body = {"url": arguments["url"], "formats": ["markdown"], "onlyMainContent": True}
        data = await firecrawl.ask("scrape", body)
        metadata = _mapping(data.get("metadata"))
        return {"url": metadata.get("sourceURL"), "title": metadata.get("title"), "markdown": data.get("markdown")}

    url = {"type": "string", "maxLength": 8_000, "description": "Absolute http or https address of a page."}
    return Described(
        name=model_name(WEB_SCRAPE),
        description="Read a web page: returns its title and its main content as Markdown.",
        schema=_schema({"url": url}),
        call=call,
        settings=settings,
        is_idempotent=True,
        timeout_s=TIMEOUT_S,
    )


def search(config: dict[str, Any], attempt: Attempt, http: HttpExecutor, environment: Mapping[str, str]) -> Described:
    """Return the tool `web.search`.

    Raises:
        TerminalFailure: its settings are wrong, or the operator has set up no Firecrawl.
    """
    settings = read_settings(WEB_SEARCH, config, _SearchSettings)
    firecrawl = _Firecrawl(WEB_SEARCH, http, attempt, environment)

    async def call(arguments: dict[str, Any], _: Any) -> Any:
        data = await firecrawl.ask("search", {"query": arguments["query"], "limit": settings.results_max})
        found = data.get("web")
        results = [_mapping(result) for result in found] if isinstance(found, list) else []
        return [{key: result.get(key) for key in ("title", "url", "description")} for result in results]

    query = {"type": "string", "minLength": 1, "maxLength": 500, "description": "What to search for."}
    return Described(
        name=model_name(WEB_SEARCH),
        description="Search the web: returns titles, addresses and descriptions of pages.",
        schema=_schema({"query": query}),
        call=call,
        settings=settings,
        is_idempotent=True,
        timeout_s=TIMEOUT_S,
    )


class _Firecrawl:
    """Firecrawl, as one attempt asks it."""

    def __init__(self, tool: str, http: HttpExecutor, attempt: Attempt, environment: Mapping[str, str]) -> None:
        self._key = environment.get("FIRECRAWL_API_KEY", "")
        base_url = environment.get("FIRECRAWL_BASE_URL", "")
        if not self._key and not base_url:
            problem = (
                "set FIRECRAWL_API_KEY, or FIRECRAWL_BASE_URL for a server of your own, in the environment of the "
                "agent runner and restart it"
            )
            raise config_invalid(tool, problem)
        self._base_url = (base_url or BASE_URL).rstrip("/")
        self._http = http
        self._attempt = attempt

    async def ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the data of an answer.

        Raises:
            StepFailure: there is none.
        """
        secrets = (*self._attempt.secrets, self._key) if self._key else self._attempt.secrets
        headers = {"authorization": f"Bearer {self._key}"} if self._key else None
        call = Call(url=f"{self._base_url}/v2/{what}", method="POST", headers=headers, json_body=body)
        answer = await self._http.send(call, self._attempt.ends_at, secrets)
        told = _mapping(readable(answer))
        if told.get("success") is True and isinstance(told.get("data"), dict):
            return _mapping(told["data"])
        problem = scrub(str(told.get("error") or "it gave no data"), secrets)[:ERROR_CHARS_MAX]
        passes = answer.status == _BUSY or answer.status >= _SERVER_ERRORS
        failure: type[StepFailure] = RetryableFailure if passes else TerminalFailure
        raise failure(f"Firecrawl answered {answer.status}: {problem}", category="tool_error", code="firecrawl_failed")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
