"""From what pydantic-ai raises to why the attempt failed."""

from __future__ import annotations

from typing import Any, NamedTuple

import httpx
import httpx2
from pydantic_ai import exceptions as raised

from millrace_agent_runner.domain.secrets import scrub
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.bodies import BodyRefused
from millrace_agent_runner.executors.http import RETRY_AFTER_S_MAX

EXPLANATION_CHARS_MAX = 500
CAUSES_MAX = 10
_TOO_LARGE, _TOO_MANY, _SERVER_ERRORS = 413, 429, 500
_NEVER_FITS = ("request too large", "context length", "maximum context", "reduce your message size", "too many tokens")
"""Said by providers inside a 413 or 429 when no waiting helps: the prompt alone is over the limit."""
_ON_THE_WAY = (OSError, httpx.TransportError, httpx2.TransportError)


class _Kind(NamedTuple):
    category: str
    code: str = ""
    advice: str = ""
    retryable: bool = False


# The first that fits counts, so the particular stands before the general.
_OF_THE_PROVIDER: tuple[tuple[type[raised.ModelAPIError], _Kind], ...] = (
    (
        raised.ModelContextWindowExceededError,
        _Kind("llm_context_too_large", advice="; send less, or use a model that takes more"),
    ),
    (raised.ModelAuthenticationError, _Kind("llm_auth")),
    (
        raised.ModelQuotaExceededError,
        _Kind("budget_exceeded", "quota_exceeded", "; the account with the provider needs more quota"),
    ),
    (raised.ModelNotFoundError, _Kind("input_invalid", "model_unknown", "; check the agent's `model`")),
    (raised.ModelRateLimitError, _Kind("llm_rate_limit", retryable=True)),
    (raised.ModelTimeoutError, _Kind("llm_timeout", retryable=True)),
    (raised.ModelRequestTimeout, _Kind("llm_timeout", retryable=True)),
    (raised.ModelConnectionError, _Kind("connection", retryable=True)),
    (raised.ModelUnavailableError, _Kind("server_error", retryable=True)),
    (raised.ModelServerError, _Kind("server_error", retryable=True)),
    (raised.ModelRequestRejectedError, _Kind("client_error", "request_rejected")),
)
_OF_THE_RUN: tuple[tuple[type[Exception], str, _Kind], ...] = (
    (
        raised.UsageLimitExceeded,
        "{model} reached a limit of the agent: {text}",
        _Kind("budget_exceeded", "agent_limit_exceeded", "; raise the agent's `limits` if it needs more"),
    ),
    (raised.ContentFilterError, "{model} would not answer: {text}", _Kind("llm_refusal")),
    (
        raised.UnexpectedModelBehavior,
        "{model} gave no answer that can be used: {text}",
        _Kind("llm_invalid_output", retryable=True),
    ),
    (raised.UserError, "{model} cannot be used like this: {text}", _Kind("input_invalid")),
    (Exception, "{model} failed: {kind}: {text}", _Kind("internal", retryable=True)),
)


def failure_of(error: Exception, model: str, keys: tuple[str, ...]) -> StepFailure:
    """Return the failure that `error`, raised while `model` was used, amounts to. Without any of `keys`."""
    if isinstance(error, StepFailure):
        return error
    if isinstance(error, raised.FallbackExceptionGroup):
        return _failure_of_all(error, model, keys)
    refused = _caused_by(error, BodyRefused)
    if refused is not None:
        return _failure(_Kind("llm_invalid_output", "answer_too_long", retryable=True), f"{model}: {refused}")
    if isinstance(error, raised.ModelAPIError):
        return _api_failure(error, model, keys)
    text = scrub(str(error), keys)[:EXPLANATION_CHARS_MAX]
    form, kind = next((form, kind) for type_, form, kind in _OF_THE_RUN if isinstance(error, type_))
    return _failure(kind, form.format(model=model, text=text, kind=type(error).__name__))


def _failure_of_all(group: raised.FallbackExceptionGroup, model: str, keys: tuple[str, ...]) -> StepFailure:
    """No model of an agent answered: the last failure that may pass stands for all, else the last one."""
    failures = [failure_of(error, getattr(error, "model_name", model), keys) for error in group.exceptions]
    chosen = next((failure for failure in reversed(failures) if failure.retryable), failures[-1])
    said = "; ".join(f"{number}. {failure}" for number, failure in enumerate(failures, 1))
    return (RetryableFailure if chosen.retryable else TerminalFailure)(
        f"none of the agent's models answered: {said}",
        category=chosen.category,
        code=chosen.code,
        retry_after_s=chosen.retry_after_s,
        detail=chosen.detail,
    )


def _caused_by(error: BaseException, *kinds: type[Exception]) -> BaseException | None:
    """Return what brought `error` about, if that is of one of some kinds: libraries wrap what is raised below them."""
    seen: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if seen is None or isinstance(seen, kinds):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _api_failure(error: raised.ModelAPIError, model: str, keys: tuple[str, ...]) -> StepFailure:
    status = error.status_code if isinstance(error, raised.ModelHTTPError) else None
    explanation = scrub(_explanation(error), keys)
    kind = _kind_of(error, status, explanation)
    if kind.category == "llm_auth":
        # The provider may repeat a part of the key, so what it says is left out.
        explanation = "the API key was refused; set a valid one in the environment of the agent runner"
    said = f"{model} answered {status}" if status else f"{model} could not be asked"
    wait_s = min(error.retry_after, RETRY_AFTER_S_MAX) if error.retry_after is not None else None
    message = f"{said}: {explanation}" if explanation else said
    return _failure(kind, message, wait_s, {"status": status} if status else {})


def _kind_of(error: raised.ModelAPIError, status: int | None, explanation: str) -> _Kind:
    never_fits = any(sign in explanation.lower() for sign in _NEVER_FITS)
    if status == _TOO_LARGE or (status == _TOO_MANY and never_fits):
        return _Kind("llm_context_too_large", advice="; it can never fit: send less, or raise the provider's limit")
    for type_, kind in _OF_THE_PROVIDER:
        if isinstance(error, type_):
            return kind
    if status is None:
        # What is left has come to no status and to no error of the connection: an answer that is none.
        return _Kind("llm_invalid_output" if _caused_by(error, *_ON_THE_WAY) is None else "connection", retryable=True)
    if status >= _SERVER_ERRORS:
        return _Kind("server_error", retryable=True)
    return _Kind("client_error", f"http_{status}")


def _failure(
    kind: _Kind, message: str, retry_after_s: float | None = None, detail: dict[str, Any] | None = None
) -> StepFailure:
    failure: type[StepFailure] = RetryableFailure if kind.retryable else TerminalFailure
    return failure(
        message + kind.advice,
        category=kind.category,
        code=kind.code,
        retry_after_s=retry_after_s if kind.retryable else None,
        detail=detail,
    )


def _explanation(error: raised.ModelAPIError) -> str:
    """What the provider says, without the rest of its answer."""
    found: Any = error.body
    while isinstance(found, dict):
        found = found.get("error", found.get("message", found.get("detail")))
    text = found if isinstance(found, str) else (error.message if error.body is None else "")
    return " ".join(text.split())[:EXPLANATION_CHARS_MAX]
