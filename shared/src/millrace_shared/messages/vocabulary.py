"""Words and small records that several kinds of message share."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from millrace_shared.values import Payload

Priority = Literal["high", "normal", "low"]
WorkKind = Literal["agent", "http", "python"]
TimerKind = Literal["retry", "wait", "execution_timeout", "gate"]
FinalStatus = Literal["completed", "failed", "cancelled", "timeout"]
"""How an execution may end."""

WaitReason = Literal["delay", "until", "signal", "approval", "breakpoint"]
"""What a waiting step waits for."""

OriginKind = Literal["retry", "fork", "replay", "cron", "event", "webhook", "alert"]
"""What an execution was started by, other than a plain request."""

WORK_KINDS: tuple[WorkKind, ...] = ("agent", "http", "python")
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

NOTHING = Payload()


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something failed, in terms that people, dashboards and retry rules share.

    `message` says what happened, to what, and what to do, and never holds a secret. `category` is what retry rules and
    dashboards count by. `retry_after_s` is the least wait that the other side asked for.
    """

    code: str
    category: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    detail: dict[str, Any] = {}


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What LLM calls used. `cost_usd` is None when a price is unknown: unknown is not free.

    In a sum `cost_usd` is that of the calls whose price is known, and `unpriced` counts the others.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    unpriced: int = 0
