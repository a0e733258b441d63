"""A model that calls its provider only when every budget has room for the most that the call may use.

Reserve, call, settle: see `domain/budgets.py` for what fits, and `adapters/ledger.py` for what is kept. A response that
comes from the journal never gets here, so it is charged once.

| how the call ended | what is charged |
|---|---|
| with an answer | what it used; the most that was thought, if the provider does not say |
| it was not made: it waits for tokens, or nobody could be reached | nothing |
| the provider refused it: HTTP 4xx or 5xx | nothing |
| it broke off, was cancelled, or the runner died | the most that was thought: it may have been paid for |
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.budgets import Account, Amount, Breach, Budget, Busy, Verdict, Wanted, answers_of
from millrace_agent_runner.domain.estimates import Learned
from millrace_agent_runner.domain.prices import OwnPrices
from millrace_agent_runner.domain.spending import Reservation, State
from millrace_agent_runner.errors import Deferred, LimitsUnavailable, TerminalFailure
from millrace_agent_runner.executors.agent.executor import CallFacts
from millrace_agent_runner.executors.agent.pricing import price_of
from millrace_agent_runner.executors.agent.prompt_tokens import prompt_tokens
from millrace_shared.messages import BudgetBreached, Deferral
from millrace_shared.values import Payload

DOWNGRADE = "budget_downgrade"
"""The code of a failure that the next of an agent's models may not have."""
OUTPUT_TOKENS_MAX = 4_096
"""What an answer may have at the most, where the agent sets no `max_tokens`."""
OUTPUT_TOKENS_MIN = 256
"""Room for an answer without which no call is begun."""
INPUT_MARGIN = 1.2
"""Estimates of input are within a fifth of it."""
BUSY_S = 2.0
"""About when to ask again while other calls hold the rest of a budget."""
UNAVAILABLE = "the database that holds the budgets, which does not answer"
UNAVAILABLE_S = 5.0
"""When to ask again while the ledger cannot be reached."""
ASK_S = 7 * 24 * 3600.0
"""How long people have to answer, at the most."""
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
"""Errors of both HTTP clients before anything was sent."""
CAUSES_MAX = 10


class Ledger(Protocol):
    """What calls have used and hold; `adapters.ledger.Ledger` is one."""

    def budgets(self, attempt: Attempt) -> list[Budget]:
        """Return every budget that holds for the calls of an attempt."""

    async def reserve(
        self, attempt: Attempt, model: tuple[str, str], budgets: Sequence[Budget], wanted: Wanted
    ) -> tuple[Verdict, Reservation | None]:
        """Hold what a call may use in all accounts, or in none."""

    async def settle(self, reservation: Reservation, used: Amount) -> None:
        """Put what a call used in the place of what was held for it."""

    def end_soon(self, reservation: Reservation, state: State, used: Amount | None = None) -> object:
        """Write how a call ended, whatever becomes of the attempt meanwhile."""


class BudgetedModel(WrapperModel):
    """Wraps the model of one attempt.

    Args:
        wrapped: the model.
        name: `provider:model`, as the definition has it.
        endpoint: the address in place of the provider's own, if any.
        attempt: whose calls they are.
        ledger: what has been used.
        prices: those of the operator.
        facts: where broken budgets are reported.
        learned: what is known about the calls of the model.
    """

    def __init__(
        self,
        wrapped: Model,
        name: str,
        endpoint: str | None,
        attempt: Attempt,
        ledger: Ledger,
        prices: OwnPrices,
        facts: CallFacts,
        learned: Learned,
    ) -> None:
        super().__init__(wrapped)
        self._name = name
        self._provider_name, _, self._model = name.partition(":")
        self._endpoint = endpoint
        self._attempt = attempt
        self._ledger = ledger
        self._prices = prices
        self._facts = facts
        self._learned = learned

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Call the model when the budgets have room.

        Raises:
            Deferred: other calls hold the room, or people are asked.
            TerminalFailure: there is none, `budget_exceeded`.
        """
        held = await self._reserved(messages, model_settings, model_request_parameters)
        with self._ended(held):
            response = await super().request(messages, model_settings, model_request_parameters)
        await self._settle(held, response.usage)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Call the model when the budgets have room, as `request` does."""
        held = await self._reserved(messages, model_settings, model_request_parameters)
        with self._ended(held):
            async with super().request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                yield stream
        await self._settle(held, stream.usage)

    async def _reserved(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> Reservation | None:
        """Hold what the call may use; None when no budget holds for it."""
        budgets = self._ledger.budgets(self._attempt)
        if not budgets:
            return None
        wanted = self._wanted(prompt_tokens(messages, parameters), (settings or {}).get("max_tokens"))
        model = (self._provider_name, self._model)
        try:
            verdict, held = await self._ledger.reserve(self._attempt, model, budgets, wanted)
        except LimitsUnavailable as error:
            raise Deferred(Deferral(time.time() + UNAVAILABLE_S, "budget", UNAVAILABLE)) from error
        match verdict:
            case Busy(_, reason):
                raise Deferred(Deferral(time.time() + BUSY_S * random.uniform(0.75, 1.5), "budget", reason))  # noqa: S311
            case Breach():
                raise self._broken(verdict)
            case _:
                for account in verdict.alerts:
                    self._tell(account, f"{account.budget.name} is used up")
                return held

    def _wanted(self, counted: int, output_max: int | None) -> Wanted:
        input_tokens = max(1, round(counted * max(1.0, self._learned.input_ratio) * INPUT_MARGIN))
        output = OUTPUT_TOKENS_MAX if output_max is None else output_max
        return Wanted(self._amount(input_tokens, output), self._amount(input_tokens, min(output, OUTPUT_TOKENS_MIN)))

    def _amount(self, input_tokens: int, output_tokens: int) -> Amount:
        usage = RequestUsage(input_tokens=input_tokens, output_tokens=output_tokens)
        price = price_of(usage, self._provider_name, self._model, self._endpoint, self._prices)
        return Amount(price.cost_usd, input_tokens + output_tokens, 1)

    def _broken(self, breach: Breach) -> Exception:
        """Return what happens to a call that does not fit, and tell of it."""
        account = breach.account
        action = account.budget.on_breach
        self._tell(account, breach.reason)
        if action == "ask" and not breach.is_unpriced:
            _, refused = answers_of(self._attempt.step.answers)
            if account.ask not in refused:
                message = f"{breach.reason}. Allow {account.budget.name} once more?"
                until = min(time.time() + ASK_S, self._attempt.step.deadline)
                question = Payload(data={"message": message})
                return Deferred(Deferral(until, "approval", breach.reason, account.ask, question))
            return _exceeded(f"{breach.reason}, and more was not allowed", "budget_refused")
        advice = f"; {self._name} has none: set one, or MILLRACE_BUDGETS_UNPRICED=allow" if breach.is_unpriced else ""
        return _exceeded(breach.reason + advice, DOWNGRADE if action == "downgrade" else "")

    def _tell(self, account: Account, text: str) -> None:
        """Report that a budget was broken, the first time it is."""
        if account.is_breached:
            return
        step = self._attempt.step
        self._facts.budget_breached(
            BudgetBreached(
                execution_id=step.execution_id,
                workspace=step.workspace,
                step=step.step,
                attempt=step.attempt,
                at=time.time(),
                scope=account.budget.scope,
                on_breach=account.budget.on_breach,
                message=text,
                item=step.item,
            )
        )

    async def _settle(self, held: Reservation | None, usage: RequestUsage) -> None:
        if held is None:
            return
        if not usage.total_tokens or usage.unmeasured_requests:  # the provider does not say
            self._ledger.end_soon(held, "presumed")
            return
        price = price_of(usage, self._provider_name, self._model, self._endpoint, self._prices)
        await self._ledger.settle(held, Amount(price.cost_usd, usage.total_tokens, 1))

    @contextmanager
    def _ended(self, held: Reservation | None) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if held is not None:
                self._ledger.end_soon(held, "released" if _was_not_paid(error) else "presumed")
            raise


def _exceeded(message: str, code: str) -> TerminalFailure:
    return TerminalFailure(message, category="budget_exceeded", code=code)


def _was_not_paid(error: BaseException) -> bool:
    """Whether a call that raised was certainly not made, or refused."""
    if isinstance(error, ModelHTTPError | Deferred | TerminalFailure):
        return True
    cause: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if cause is None:
            return False
        if type(cause).__name__ in _NEVER_SENT:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
