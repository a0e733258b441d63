"""How a step or an execution is carried out: attempts, bounds, iterations, kept results."""

from typing import Any, Literal

from pydantic import Field, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.durations import Duration, PositiveDuration
from millrace_shared.definition.fields import KeyTemplate, Part

ErrorCategory = Literal[
    "rate_limit",
    "timeout",
    "server_error",
    "connection",
    "internal",
    "invalid_output",
    "client_error",
    "user_code",
]
"""What `retry.errors` may name; a step's error carries one of these, or one that is never retried."""

RETRIED_BY_DEFAULT: tuple[ErrorCategory, ...] = (
    "rate_limit",
    "timeout",
    "server_error",
    "connection",
    "internal",
)
"""Failures likely to pass. A wrong output, a refused request or the user's own exception are not."""


class Retry(Part):
    """When and how often a failed attempt is repeated."""

    max_attempts: int = Field(
        default=bounds.RETRY_ATTEMPTS_DEFAULT,
        ge=1,
        le=bounds.RETRY_ATTEMPTS_MAX,
        description="Attempts in all, the first one included.",
    )
    backoff: Literal["exponential", "linear", "fixed"] = Field(
        default="exponential", description="How the pause grows from one attempt to the next."
    )
    initial: Duration = Field(default=bounds.RETRY_INITIAL_DEFAULT_S, description="Pause before the second attempt.")
    max: Duration = Field(default=bounds.RETRY_MAX_DEFAULT_S, description="Longest pause.")
    jitter: bool = Field(default=True, description="Spread the pauses at random, so that retries do not come in waves.")
    errors: tuple[ErrorCategory, ...] = Field(
        default=RETRIED_BY_DEFAULT, strict=False, description="Categories of errors that are retried."
    )


NO_RETRY = Retry(max_attempts=1)


class Budget(Part):
    """What the calls to models within a step or an execution may use together."""

    max_cost_usd: float | None = Field(default=None, ge=0, description="Budget for LLM calls, in US dollars.")
    max_tokens: int | None = Field(default=None, ge=1, description="Input and output tokens of LLM calls.")
    max_calls: int | None = Field(default=None, ge=1, description="LLM calls.")
    on_breach: Literal["stop", "downgrade", "ask", "alert"] = Field(
        default="stop",
        description="When a call does not fit: fail, use the next fallback model, ask people, or only say so.",
    )

    @property
    def is_bounded(self) -> bool:
        """Whether there is any bound at all."""
        return (self.max_cost_usd, self.max_tokens, self.max_calls) != (None, None, None)


class Limits(Budget):
    """What one execution may take."""

    timeout: PositiveDuration = Field(
        default=bounds.EXECUTION_TIMEOUT_DEFAULT_S, description="Longest time from start to end."
    )
    max_parallel: int = Field(
        default=bounds.MAX_PARALLEL_DEFAULT,
        ge=1,
        le=bounds.MAX_PARALLEL_MAX,
        description="Steps and items that run at the same time.",
    )


class Defaults(Part):
    """What holds for every step that says nothing else. A step's own `retry` replaces this one as a whole."""

    retry: Retry | None = Field(default=None, description="Retry rule of steps that have none.")
    timeout: PositiveDuration | None = Field(default=None, description="Time limit of one attempt of a step.")


class Repeat(Part):
    """A step that is done again and again, until its result is good enough."""

    until: str = Field(
        description="Condition on `output`, without `${{ }}`: the first iteration that meets it is the last."
    )
    max: int = Field(
        default=bounds.REPEAT_DEFAULT, ge=1, le=bounds.REPEAT_MAX, description="Iterations in all, at most."
    )
    on_max: Literal["complete", "fail"] = Field(
        default="complete", description="What becomes of the step if the last iteration does not meet the condition."
    )
    delay: Duration = Field(default=0.0, description="Pause between two iterations.")

    @model_validator(mode="before")
    @classmethod
    def _boolean_condition(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("until"), bool):
            return {**value, "until": "true" if value["until"] else "false"}
        return value


class Cache(Part):
    """A result that is kept, and given again to attempts of the same step with the same input."""

    ttl: PositiveDuration = Field(description="How long a result is kept.")
    key: KeyTemplate | None = Field(
        default=None, description="What tells results apart, in place of the step's resolved input."
    )
