"""From an exception to the error that people, dashboards and retry rules see."""

from __future__ import annotations

import logging
import traceback

import msgspec

from millrace_agent_runner.domain.secrets import scrub, scrub_value
from millrace_agent_runner.errors import StepFailure
from millrace_shared.errors import MessageInvalid, RetryableError, ValueTooLarge
from millrace_shared.messages import ErrorInfo

log = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 4_000
DETAIL_BYTES_MAX = 16 * 1024
LOGGED_CHARS_MAX = 20_000
FRAMES_MAX = 20


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

    What is not foreseen is a defect: it is logged and recorded with its stack, and reported as `internal`, which retry
    rules may retry, since the next runner may not have it.
    """
    message = scrub(str(error), secrets)
    if len(message) > MESSAGE_CHARS_MAX:
        message = message[:MESSAGE_CHARS_MAX] + f"… ({len(message)} characters)"
    if isinstance(error, StepFailure):
        detail = scrub_value(error.detail, secrets)
        if error.category == "internal" and error.__cause__ is not None:
            # What the cause says may hold what only the failure's author knows to be secret: the message is enough.
            stack = _stack(error.__cause__)
            log.error("an attempt failed in a way that was not foreseen: %s\n%s", message, "\n".join(stack))
            detail = {**detail, "exception": _name(error.__cause__), "stack": stack}
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
    log.error("an attempt failed in a way that was not foreseen: %s", scrub(_formatted(error), secrets))
    text = f"{type(error).__name__}: {message}; this is a defect, and the runner's log has the whole of it"
    detail = {"exception": _name(error), "stack": _stack(error)}
    return ErrorInfo(code="internal", category="internal", message=text, retryable=True, detail=detail)


def _formatted(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= LOGGED_CHARS_MAX else f"…{text[-LOGGED_CHARS_MAX:]}"


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _stack(error: BaseException) -> list[str]:
    """Where it was raised, the innermost call last: places in code, which hold nothing of anybody's data."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    return [f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}" for frame in frames]


def _is_small(detail: object) -> bool:
    try:
        return len(msgspec.json.encode(detail)) <= DETAIL_BYTES_MAX
    except (TypeError, ValueError):
        return False
