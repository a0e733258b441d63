"""From an exception to the error that people, dashboards and retry rules see."""

from __future__ import annotations

import logging

import msgspec

from millrace_agent_runner.domain.secrets import scrub, scrub_value
from millrace_agent_runner.errors import StepFailure
from millrace_shared.errors import MessageInvalid, RetryableError, ValueTooLarge
from millrace_shared.messages import ErrorInfo

log = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 4_000
DETAIL_BYTES_MAX = 16 * 1024


def timed_out(timeout_s: float) -> ErrorInfo:
    """The error of an attempt whose time was up."""
    message = (
        f"the attempt was stopped after {timeout_s:g} s, its time limit; raise the step's `timeout` if it needs more"
    )
    return ErrorInfo(code="timeout", category="timeout", message=message, retryable=True)


CANCELLED = ErrorInfo(
    code="cancelled", category="cancelled", message="the attempt was stopped because its execution was cancelled"
)


def error_of(error: BaseException, secrets: tuple[str, ...]) -> ErrorInfo:
    """Describe why an attempt failed, without the values of `secrets`.

    What is not foreseen is a defect: it is logged with its stack and reported as `internal`, which retry rules may
    retry, since the next runner may not have it.
    """
    message = scrub(str(error), secrets)
    if len(message) > MESSAGE_CHARS_MAX:
        message = message[:MESSAGE_CHARS_MAX] + f"… ({len(message)} characters)"
    if isinstance(error, StepFailure):
        detail = scrub_value(error.detail, secrets)
        return ErrorInfo(
            code=error.code,
            category=error.category,
            message=message,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            detail=detail if _is_small(detail) else {},
        )
    if isinstance(error, ValueTooLarge):
        return ErrorInfo(code="value_too_large", category="value_too_large", message=message)
    if isinstance(error, MessageInvalid):
        return ErrorInfo(code="output_not_json", category="invalid_output", message=message)
    if isinstance(error, RetryableError):  # the blob store or the bus did not answer
        return ErrorInfo(code="storage_unavailable", category="connection", message=message, retryable=True)
    log.error("an attempt failed in a way that was not foreseen", exc_info=_without_secrets(error, secrets))
    text = f"{type(error).__name__}: {message}"
    return ErrorInfo(code="internal", category="internal", message=text, retryable=True)


def _without_secrets(error: BaseException, secrets: tuple[str, ...]) -> BaseException | None:
    """A stack shows the exception's text, so it is left out where it could show a secret."""
    return None if secrets else error


def _is_small(detail: object) -> bool:
    try:
        return len(msgspec.json.encode(detail)) <= DETAIL_BYTES_MAX
    except (TypeError, ValueError):
        return False
