"""Why an attempt failed.

    MillraceError (shared.errors)
    ├── StepFailure                  an attempt failed, and it is known how
    │   ├── RetryableFailure         another attempt may succeed (also a RetryableError)
    │   └── TerminalFailure          another attempt would fail the same way (also a TerminalError)
    └── Deferred                     no failure: the attempt gives its place back, and another goes on later
    RetryableError (shared.errors)
    ├── ThreadsHeld                  functions that do not return hold every thread
    ├── TakenOver                    another runner goes on with the attempt
    └── LimitsUnavailable            the database that holds rate limits does not answer

`category` is one of the definition's error categories, or one that is never retried: retry rules and dashboards go by
it, so an error that must not be retried needs a category that no rule can name. `code` is finer and stable. Functions
of `python` steps may raise these to say how they failed.

| category | who raises it |
|---|---|
| llm_rate_limit | a model's provider: too many requests or tokens for now |
| llm_timeout | a model did not finish its answer in time |
| llm_invalid_output | a model's answer cannot be used: no JSON, wrong JSON, tools there are not, no end |
| llm_refusal | a model would not answer |
| llm_context_too_large | the conversation does not fit the model, or can never fit its rate limit |
| llm_auth | a provider's API key is missing or refused |
| budget_exceeded | a limit of the agent, a budget that holds for the call, or the account's quota is used up |
| tool_error | a tool of an agent cannot be used at all |
| sandbox_violation | code in a sandbox did what it must not |
| rate_limit, timeout, server_error, connection | the other side, or the way to it; passes by itself |
| client_error | the other side refused the request: HTTP 4xx |
| user_code | a function of a `python` step raised |
| input_invalid | the step, or its input, cannot be used |
| invalid_output | the output does not match the step's JSON Schema |
| value_too_large | the output is over its limit |
| undeliverable | the work message is not one, or was delivered too often without a result |
| cancelled | the execution was cancelled |
| internal | anything else, a defect of ours included |
"""

from __future__ import annotations

from typing import Any

from millrace_shared.errors import MillraceError, RetryableError, TerminalError
from millrace_shared.messages import Deferral


class ThreadsHeld(RetryableError):
    """Functions that do not return at their deadline hold every thread, and others wait for one."""


class TakenOver(RetryableError):
    """Another runner goes on with the attempt, so this one says nothing about it any more."""


class LimitsUnavailable(RetryableError):
    """The database that holds rate limits does not answer, so nothing that they hold for is called."""


class StepFailure(MillraceError):
    """An attempt failed.

    Args:
        message: what happened, to what, and what to do; holds no secret.
        category: see the module's table.
        code: a stable name, finer than the category; the category itself when empty.
        retry_after_s: the least wait that the other side asked for.
        detail: small JSON facts for people who look into it.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        category: str,
        code: str = "",
        retry_after_s: float | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.category = category
        self.code = code or category
        self.retry_after_s = retry_after_s
        self.detail = detail or {}


class RetryableFailure(StepFailure, RetryableError):
    """An attempt failed, and another one may succeed."""

    retryable = True


class TerminalFailure(StepFailure, TerminalError):
    """An attempt failed, and another one would fail the same way."""


class Deferred(MillraceError):
    """An attempt ends without a result, which is no failure: another one goes on with its conversation later.

    Args:
        deferral: why, until when, and what is asked meanwhile. Its texts hold no secret.
    """

    def __init__(self, deferral: Deferral) -> None:
        super().__init__(deferral.detail or f"the attempt waits for {deferral.reason}")
        self.deferral = deferral
