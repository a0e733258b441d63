"""`http` steps and the `http.get` tool: one request, its redirects, and a bounded answer.

The output is `{"status": int, "headers": {name: value}, "body": JSON or text}`. What is not 2xx after redirects is an
error: 5xx `server_error` and 429 `rate_limit` may be retried, 408 is a `timeout`, the rest is `client_error`.
"""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure

if TYPE_CHECKING:
    import httpcore
    import httpx

BODY_BYTES_MAX = 8 * 1024 * 1024
"""Of a response, as it is sent and when it is decompressed."""
REDIRECTS_MAX = 5
CONNECT_TIMEOUT_S = 10.0
ERROR_BODY_CHARS_MAX = 500
RETRY_AFTER_S_MAX = 86_400.0
USER_AGENT = "millrace"

_DEFAULT_HEADERS = {"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "gzip, deflate"}
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MESSAGE_REFUSED = frozenset({"host", "content-length", "transfer-encoding", "connection"})
"""Headers that describe the connection; an author who could set them could smuggle a second request."""

_HOST = re.compile(r"^[^\s%/?#@\\]+$")
_HEADER_NAME = re.compile(r"^[A-Za-z0-9!#$&'*+.^_`|~-]+$")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Answer(NamedTuple):
    """A response that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    url: str


class HttpExecutor:
    """Performs `http` steps. The connection pool is opened with the first one.

    Args:
        allowed: what may be reached beyond the public internet.
    """

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()

    async def __call__(self, attempt: Attempt) -> Any:
        """Send the request of a step and return its output.

        Raises:
            StepFailure: it cannot be sent, was not answered, or was answered with an error.
        """
        request = _decode_request(attempt.input)
        answer = await self.send(request, attempt.ends_at, attempt.secrets)
        _check_status(request.method, answer)
        return {"status": answer.status, "headers": answer.headers, "body": readable(answer)}

    async def send(
        self, call: Call, ends_at: float, secrets: tuple[str, ...] = (), hosts: frozenset[str] | None = None
    ) -> Answer:
        """Send a request, follow its redirects, and read the answer.

        Args:
            call: what to send.
            ends_at: when it must be over, in Unix seconds.
            secrets: values that must not follow a redirect to another origin.
            hosts: the only hosts that may be asked, redirects included; None: any that the guard lets through.

        Raises:
            StepFailure: it cannot be sent, or was not answered.
        """
        import httpx

        try:
            request = _build(call)
        except (httpx.InvalidURL, ValueError, TypeError, OverflowError) as error:
            raise TerminalFailure(f"the request cannot be built: {error}", category="input_invalid") from error
        for _ in range(REDIRECTS_MAX + 1):
            if hosts is not None and request.url.host.lower() not in hosts:
                message = f'"{request.url.host}" is not one of the hosts that may be asked: {", ".join(sorted(hosts))}'
                raise TerminalFailure(message, category="input_invalid", code="host_refused")
            answer = await self._exchange(request, ends_at)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            request = _redirected(request, answer.status, location, secrets)
        message = f"{call.method} {_shown(request)} was redirected more than {REDIRECTS_MAX} times"
        raise TerminalFailure(message, category="client_error", code="too_many_redirects")

    async def judge(self, url: str) -> None:
        """Return when `url` leads where steps may reach.

        Raises:
            StepFailure: it does not, or is no address.
        """
        import httpx

        from millrace_agent_runner.executors.network import GuardedNetwork

        try:
            target = _build(Call(url=url)).url
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise TerminalFailure(f"the address is not one: {error}", category="input_invalid") from error
        await GuardedNetwork(self._allowed).addresses(target.host, target.port or _PORTS[target.scheme])

    async def _exchange(self, request: httpx.Request, ends_at: float) -> Answer:
        import httpcore

        pool = self._open()
        left_s = max(0.001, ends_at - time.time())
        timeouts = {"connect": min(CONNECT_TIMEOUT_S, left_s), "read": left_s, "write": left_s, "pool": left_s}
        where = f"{request.method} {_shown(request)}"
        try:
            response = await pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions={"timeout": timeouts},
                )
            )
            try:
                headers = _headers_of(response)
                body = await _read(response, headers, where)
            finally:
                await response.aclose()
        except httpcore.TimeoutException as error:
            message = f"{where} did not answer in time ({type(error).__name__})"
            raise RetryableFailure(message, category="timeout", code="http_timeout") from error
        except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError) as error:
            raise TerminalFailure(f"{where} cannot be sent: {error}", category="input_invalid") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            message = f"{where} failed on the way: {type(error).__name__}: {error}"
            raise RetryableFailure(message, category="connection") from error
        return Answer(response.status, headers, body, str(request.url))

    def _open(self) -> httpcore.AsyncConnectionPool:
        if self._pool is None:
            from millrace_agent_runner.executors.network import open_pool

            self._pool = open_pool(self._allowed)
        return self._pool


class Call(msgspec.Struct, frozen=True, rename={"json_body": "json"}, forbid_unknown_fields=True):
    """A request as a step has it."""

    url: str
    method: str = "GET"
    query: dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    json_body: Any = None
    body: str | None = None


def readable(answer: Answer) -> Any:
    """Return a body as JSON when it says and is JSON, as text otherwise, and None when it is empty."""
    if not answer.body:
        return None
    kind, _, parameters = answer.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # it says so and is not: the text is of more use than an error
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(" \"'") or "utf-8"
    try:
        return answer.body.decode(charset, errors="replace")
    except LookupError:
        return answer.body.decode("utf-8", errors="replace")


def retry_after_s(headers: dict[str, str], now: datetime | None = None) -> float | None:
    """Return the wait that `Retry-After` asks for, in seconds or as a date; None when it asks for none."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - (now or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX) if seconds == seconds else None  # noqa: PLR0124  NaN


def _decode_request(data: Any) -> Call:
    try:
        call = msgspec.convert(data, Call)
    except msgspec.ValidationError as error:
        raise TerminalFailure(f"the request is not one: {error}", category="input_invalid") from error
    for name, value in (call.headers or {}).items():
        if not _HEADER_NAME.match(name) or _CONTROL.search(value):
            raise TerminalFailure(f"the header {name[:100]!r} cannot be sent", category="input_invalid")
        if name.lower() in _MESSAGE_REFUSED:
            raise TerminalFailure(f'the header "{name}" is set by the runner itself', category="input_invalid")
    return call


def _build(call: Call) -> httpx.Request:
    import httpx

    url = httpx.URL(call.url)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f'"{call.url[:200]}" is not an absolute http or https address')
    if not _HOST.match(url.host):
        raise ValueError(f'"{url.host[:200]}" is not a host name')
    if url.userinfo:
        raise ValueError("the address holds a user or password; pass an Authorization header instead")
    if call.query:
        url = url.copy_merge_params(
            {name: _query_value(value) for name, value in call.query.items() if value is not None}
        )
    content: bytes | None = None
    headers = httpx.Headers({**_DEFAULT_HEADERS})
    if call.json_body is not None:
        content = msgspec.json.encode(call.json_body)
        headers["content-type"] = "application/json"
    elif call.body is not None:
        content = call.body.encode()
        headers["content-type"] = "text/plain; charset=utf-8"
    headers.update(call.headers or {})
    return httpx.Request(call.method, url.copy_with(fragment=None), headers=headers, content=content)


def _query_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_query_value(item) for item in value]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _redirected(request: httpx.Request, status: int, location: str, secrets: tuple[str, ...]) -> httpx.Request:
    """Return the request that follows a redirect. What is secret stays with the origin that it was meant for."""
    import httpx

    try:
        url = request.url.join(location).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        message = f"{request.method} {_shown(request)} was redirected to what is not an http or https address"
        raise TerminalFailure(message, category="client_error", code="redirect_invalid")
    method, content = request.method, request.content
    headers = httpx.Headers(request.headers)
    del headers["host"]
    headers.pop("content-length", None)
    if status == 303 or (status in {301, 302} and method == "POST"):  # noqa: PLR2004  as browsers do
        method, content = ("HEAD" if method == "HEAD" else "GET"), b""
        headers.pop("content-type", None)
    if (url.scheme, url.host, url.port) != (request.url.scheme, request.url.host, request.url.port):
        for name, value in tuple(headers.items()):
            if name.lower() in _CREDENTIALS or any(secret in value for secret in secrets):
                del headers[name]
        if any(secret.encode() in content for secret in secrets):
            message = f"{_shown(request)} redirects to {url.host}, and the body with its secrets does not go there"
            raise TerminalFailure(message, category="client_error", code="redirect_refused")
    return httpx.Request(method, url, headers=headers, content=content or None)


def _headers_of(response: httpcore.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


@dataclass
class _Body:
    """Bytes that arrive, decompressed, within the limit."""

    where: str
    decompressor: Any = None

    def __post_init__(self) -> None:
        self.parts: list[bytes] = []
        self.size_bytes = 0
        self.raw_bytes = 0

    def add(self, chunk: bytes) -> None:
        self.raw_bytes += len(chunk)
        if self.decompressor is not None:
            chunk = self.decompressor.decompress(chunk, BODY_BYTES_MAX - self.size_bytes + 1)
        self.size_bytes += len(chunk)
        if max(self.size_bytes, self.raw_bytes) > BODY_BYTES_MAX:
            message = f"{self.where} answered with more than {BODY_BYTES_MAX // 1024**2} MiB; ask for less of it"
            raise TerminalFailure(message, category="value_too_large", code="response_too_large")
        self.parts.append(chunk)


async def _read(response: httpcore.Response, headers: dict[str, str], where: str) -> bytes:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in {"", "identity"}:
        body = _Body(where)
    elif encoding in {"gzip", "x-gzip"}:
        body = _Body(where, zlib.decompressobj(31))
    elif encoding == "deflate":
        body = _Body(where, zlib.decompressobj(15))
    else:
        message = f'{where} answered in the encoding "{encoding}", which was not asked for'
        raise TerminalFailure(message, category="client_error", code="encoding_unknown")
    try:
        async for chunk in response.aiter_stream():
            body.add(chunk)
    except zlib.error as error:
        raise RetryableFailure(f"{where} answered with broken {encoding}: {error}", category="connection") from error
    return b"".join(body.parts)


def _check_status(method: str, answer: Answer) -> None:
    if 200 <= answer.status < 300:  # noqa: PLR2004  the class of successes
        return
    text = answer.body[: ERROR_BODY_CHARS_MAX * 4].decode("utf-8", errors="replace")[:ERROR_BODY_CHARS_MAX]
    message = f"{method} {answer.url.partition('?')[0]} answered {answer.status}" + (f": {text}" if text else "")
    code = f"http_{answer.status}"
    wait_s = retry_after_s(answer.headers)
    failure: type[StepFailure] = RetryableFailure
    if answer.status == 429:  # noqa: PLR2004  too many requests
        category = "rate_limit"
    elif answer.status == 408:  # noqa: PLR2004  request timeout
        category = "timeout"
    elif answer.status >= 500:  # noqa: PLR2004  the class of server errors
        category = "server_error"
    else:
        category, failure = "client_error", TerminalFailure
    raise failure(message, category=category, code=code, retry_after_s=wait_s, detail={"status": answer.status})


def _shown(request: httpx.Request) -> str:
    """The address without its query, which is where keys are found."""
    return str(request.url.copy_with(query=None))
