"""Flow control: which of a workflow's executions may begin, and when.

`key` tells executions apart: a rule holds among those with the same key. Without one it holds for the whole workflow.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.durations import PositiveDuration
from millrace_shared.definition.fields import KeyTemplate, Part

FLOW_CONTROL_KEYS = ("concurrency", "throttle", "debounce", "singleton")
"""Keys of a definition that this module describes."""

_KEY = "What tells executions apart, of their inputs; without it the rule holds for the workflow as a whole."


class Concurrency(Part):
    """How many executions run at the same time."""

    key: KeyTemplate | None = Field(default=None, description=_KEY)
    limit: int = Field(ge=1, le=bounds.CONCURRENCY_MAX, description="Executions that run at the same time.")
    on_limit: Literal["queue", "drop", "cancel_oldest"] = Field(
        default="queue",
        description="What becomes of one too many: it waits, it is cancelled, or the one that runs longest is.",
    )


class Throttle(Part):
    """How many executions begin within a time."""

    key: KeyTemplate | None = Field(default=None, description=_KEY)
    limit: int = Field(ge=1, le=bounds.THROTTLE_MAX, description="Executions that begin within `per`.")
    per: PositiveDuration = Field(description="Length of the time.")
    on_limit: Literal["queue", "drop"] = Field(
        default="queue", description="What becomes of one too many: it waits, or it is cancelled."
    )


class Debounce(Part):
    """Of several starts in a row only the newest one runs; the others end cancelled."""

    key: KeyTemplate | None = Field(default=None, description=_KEY)
    delay: PositiveDuration = Field(description="How long no other start must come.")


class Singleton(Part):
    """At most one execution runs; what is started meanwhile ends cancelled."""

    key: KeyTemplate | None = Field(default=None, description=_KEY)

    @model_validator(mode="before")
    @classmethod
    def _true_alone(cls, value: Any) -> Any:
        return {} if value is True else value
