"""What runners are given to do, the facts that they report, and what nobody could process."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from millrace_shared.messages.vocabulary import NOTHING, Answer, BreachAction, BudgetScope, ErrorInfo, WorkKind
from millrace_shared.values import Payload


class RunStep(msgspec.Struct, frozen=True, omit_defaults=True, tag="run_step"):
    """The work message: everything a runner needs for one attempt, except the values of secrets.

    `spec` is the static part of the step from the definition (`plan.py` of the orchestrator builds it); `input` is
    resolved but for `secrets` (see `StepScheduled`). The runner ends the attempt `timeout_s` after it began, and in any
    case at `deadline` (Unix seconds), a guard that lies after any at which the execution itself could time out. `again`
    says that the attempt may have been performed already: the runner looks for its result first. `cache` is the key
    under which the result is looked up before and kept afterwards, for `cache_ttl_s`; empty: not cached.

    All attempts of one `iteration` (from 0) of a step or item are one conversation; `continues` says that an earlier
    attempt of it may have left something behind. `answers` are those to the questions that earlier attempts asked.
    `budgets` hold for every call, the innermost first.
    """

    execution_id: str
    workspace: str
    workflow_id: str
    workflow_name: str
    workflow_version: int
    step: str
    attempt: int
    kind: WorkKind
    timeout_s: float
    deadline: float
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}
    item: int | None = None
    traceparent: str | None = None
    again: bool = False
    cache: str = ""
    cache_ttl_s: float = 0.0
    iteration: int = 0
    continues: bool = False
    answers: tuple[Answer, ...] = ()
    budgets: tuple[BudgetScope, ...] = ()


class StepStarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="step_started"):
    """A runner has begun an attempt that takes a while. A short one is told by its result alone."""

    execution_id: str
    step: str
    attempt: int
    at: float
    item: int | None = None
    runner: str = ""


class LlmCall(msgspec.Struct, frozen=True, omit_defaults=True, tag="llm_call"):
    """One call to a model, as it was made."""

    execution_id: str
    workspace: str
    workflow_id: str
    step: str
    attempt: int
    sequence: int
    provider: str
    model: str
    at: float
    duration_s: float
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None
    price_version: str | None = None
    time_to_first_token_s: float | None = None
    finish_reason: str | None = None
    error: ErrorInfo | None = None
    item: int | None = None


class TokenDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="token_delta"):
    """A piece of a model's streamed answer, for live viewers.

    `turn` counts the model's answers in the conversation, from 0, and `sequence` the pieces of the attempt. `restarted`
    says that this answer begins again, because a runner died or an attempt failed in the middle of it: what was shown
    of it, and of later ones, is void.
    """

    execution_id: str
    step: str
    attempt: int
    sequence: int
    text: str
    at: float
    item: int | None = None
    turn: int = 0
    iteration: int = 0
    restarted: bool = False


class BudgetBreached(msgspec.Struct, frozen=True, omit_defaults=True, tag="budget_breached"):
    """A call to a model did not fit into a budget, for the first time. `scope` is the ledger's account."""

    execution_id: str
    workspace: str
    step: str
    attempt: int
    at: float
    scope: str
    on_breach: BreachAction
    message: str
    item: int | None = None


Fact = StepStarted | LlmCall | TokenDelta | BudgetBreached


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that could not be processed: where it came from, why, and its bytes (base64 in JSON).

    `headers` are those of its headers that whoever sends it again must send, too.
    """

    stream: str
    subject: str
    reason: str
    service: str
    at: float
    payload: bytes
    sequence: int = 0
    truncated: bool = False
    headers: dict[str, str] = {}
