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

DeferralReason = Literal["tokens", "budget", "approval"]
"""Why an attempt gives its place back before it is through: a rate limit, a budget, or a question to people."""

WaitReason = Literal["delay", "until", "signal", "approval", "breakpoint", "tokens", "budget"]
"""What a waiting step waits for."""

BreachAction = Literal["stop", "downgrade", "ask", "alert"]
"""What happens when a budget has no room for the next call."""

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


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a question that an attempt asked people (`Deferral.ask`).

    `by` is empty when nobody answered in time. `data` is what was entered into the form.
    """

    ask: str
    approved: bool
    at: float
    by: str = ""
    note: str = ""
    data: Payload = NOTHING
    decision_id: str = ""


class Deferral(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt ended without a result, its place given back, and when the next one begins (Unix seconds).

    A deferral is no failure, and counts as no retry. `detail` says to people what is waited for. With the reason
    `approval` the question `ask` (its id, unique within the conversation) is put to people, as `question` has it:
    `{"message", "form"}`; the next attempt begins with the answer, or without one at `until`.
    """

    until: float
    reason: DeferralReason
    detail: str = ""
    ask: str = ""
    question: Payload = NOTHING


class BudgetScope(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all calls to models within a scope may use together. A bound that is None does not exist.

    `id` is an execution's id, or `<execution id>/<step>`. `tokens` are those of input and output.
    """

    id: str
    cost_usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None
    on_breach: BreachAction = "stop"
