"""What a call to a model passes through, from the outside in; each layer is a module of its own.

    JournaledModel      recorded answers are given again, new ones recorded
      LiveModel         viewers see the text as it comes
        FallbackModel   the next model is asked when one cannot answer (only with `fallback_models`)
          BudgetedModel holds what the call may use of every budget (only with a database)
            LimitedModel    waits for rate limits (likewise)
              MeteredModel      reports what was used, and what it cost
                BoundedModel        ends a call whose time is up
                  the provider's model

What the journal answers passes through none of the others: it costs nothing, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.estimates import Learned
from millrace_agent_runner.domain.prices import NONE, OwnPrices
from millrace_agent_runner.errors import StepFailure
from millrace_agent_runner.executors.agent.bounded import BoundedModel
from millrace_agent_runner.executors.agent.budgeted import DOWNGRADE, BudgetedModel, Ledger
from millrace_agent_runner.executors.agent.executor import CallFacts
from millrace_agent_runner.executors.agent.failures import failure_of
from millrace_agent_runner.executors.agent.limited import LimitedModel, Limits
from millrace_agent_runner.executors.agent.metering import MeteredModel
from millrace_agent_runner.executors.agent.models import Models

PASSED_ON = frozenset(
    {
        "llm_rate_limit",
        "llm_timeout",
        "llm_auth",
        "llm_context_too_large",
        "server_error",
        "connection",
        "client_error",
    }
)
"""Failures of a call that another model may not have."""
MODEL_UNKNOWN = "model_unknown"


@dataclass(frozen=True, slots=True)
class Layers:
    """Makes the models that runs call.

    Attributes:
        models: makes providers' models.
        facts: where calls are reported.
        limits: rate limits; None without a database.
        ledger: what is used of budgets; None without a database.
        prices: those of the operator.
    """

    models: Models
    facts: CallFacts
    limits: Limits | None = None
    ledger: Ledger | None = None
    prices: OwnPrices = NONE

    async def over(self, names: Sequence[str], attempt: Attempt, timeout_s: float) -> Model:
        """Return the model of an attempt: the first of `names`, or the next when one cannot answer.

        Raises:
            StepFailure: one of them cannot be called at all.
        """
        candidates = [await self._one(name, attempt, timeout_s) for name in names]
        if len(candidates) == 1:
            return candidates[0]
        return FallbackModel(*candidates, fallback_on=[self._is_passed_on])

    async def _one(self, name: str, attempt: Attempt, timeout_s: float) -> Model:
        endpoint = self.models.endpoint(name.partition(":")[0])
        provided = BoundedModel(await self.models.get(name), name, timeout_s)
        model: Model = MeteredModel(provided, name, endpoint, attempt, self.facts, self.models.keys, self.prices)
        if self.limits is not None:
            model = LimitedModel(model, name, attempt, self.limits)
        if self.ledger is not None:
            provider, _, called = name.partition(":")
            learned = Learned() if self.limits is None else self.limits.learned(provider, called)
            model = BudgetedModel(model, name, endpoint, attempt, self.ledger, self.prices, self.facts, learned)
        return model

    def _is_passed_on(self, error: Exception) -> bool:
        if not isinstance(error, StepFailure):
            error = failure_of(error, "the model", self.models.keys)
        return error.category in PASSED_ON or error.code in {MODEL_UNKNOWN, DOWNGRADE}
