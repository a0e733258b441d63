"""One api and one key: how requests are sent, which are sent again, and what goes wrong."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from millrace.client.address import KEY_VARIABLE
from millrace.client.errors import RequestRefused, ServerNotFound, ServerUnavailable, ServerUnreachable

PREFIX = "/api/v1"
ATTEMPTS_MAX = 4
BACKOFF_S = 0.2
"""The first pause before a request is sent again; each later one is twice as long."""
TIMEOUT_S = 30.0


class Transport:
    """Sends requests. A context manager; not for several threads at once.

    A request is sent again, a few times, when nobody took it or the server says that it cannot right now, as long as
    doing it twice does no harm: reading, saving a definition, and starting an execution that has a name.

    Args:
        url: the api's address, without `/api/v1`.
        key: the API key.
        workspace: the slug of the workspace, for a key that sees several.
        timeout_s: how long an answer may take.
        transport: carries the requests in place of the network.
        pause: waits so many seconds between attempts.

    Raises:
        ServerNotFound: the key is none.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        workspace: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        if not (key.isascii() and key.isprintable()):  # the error of the HTTP library would show it
            raise ServerNotFound(
                f"the API key for {self.url} holds characters that no key has: set {KEY_VARIABLE} anew"
            )
        self._headers = {"Authorization": f"Bearer {key}"} | ({"X-Workspace-Slug": workspace} if workspace else {})
        self._timeout_s = timeout_s
        self._pause = pause
        # The key must not go to where a proxy of the environment or a redirect leads.
        self._http = httpx.Client(
            base_url=self.url + PREFIX, headers=self._headers, timeout=timeout_s, trust_env=False, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, *, repeatable: bool | None = None, **parts: Any) -> httpx.Response:
        repeatable = method in ("GET", "PUT") if repeatable is None else repeatable
        attempt = 1
        while True:
            try:
                return self._once(method, path, parts)
            except (ServerUnreachable, ServerUnavailable) as error:
                # A connection that was never made carried nothing, so anything may be tried again after it.
                harmless = repeatable or isinstance(error, ServerUnreachable)
                if not harmless or attempt >= ATTEMPTS_MAX:
                    raise
            self._pause(BACKOFF_S * 2 ** (attempt - 1))
            attempt += 1

    def _once(self, method: str, path: str, parts: dict[str, Any]) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **parts)
        except httpx.ConnectError as error:
            raise ServerUnreachable(self.url, str(error) or type(error).__name__) from error
        except httpx.TimeoutException as error:
            raise ServerUnavailable(
                f"{method} {self.url}{PREFIX}{path} was not answered in {self._timeout_s:g} s; whether it was done is "
                "unknown. Look before you repeat it."
            ) from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServerUnavailable(f"{method} {self.url}{PREFIX}{path} was not answered: {reason}") from error
        except httpx.InvalidURL as error:
            raise ServerUnreachable(self.url, str(error)) from error
        if answer.is_success and (not answer.content or "json" in answer.headers.get("content-type", "")):
            return answer
        problem = _problem(answer)
        if answer.is_server_error:
            detail = problem.get("detail") or f"it answered {answer.status_code}"
            raise ServerUnavailable(f"{self.url} cannot do that right now: {detail}")
        raise RequestRefused(answer.status_code, problem)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        return problem
    return {"detail": f"{answer.url} answered {answer.status_code}; is that a Millrace api?"}


def present(**fields: Any) -> dict[str, Any]:
    """Return the fields that are given."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


def part(text: str) -> str:
    """Return a text as one part of a path, whatever it holds."""
    return quote(text, safe="") or "%20"
