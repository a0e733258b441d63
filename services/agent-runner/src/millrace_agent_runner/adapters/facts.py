"""Facts about attempts, for telemetry and for whoever is watching: they move no state, and hold nobody up."""

from __future__ import annotations

from millrace_agent_runner import metrics
from millrace_agent_runner.adapters.outbox import Outbox
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import ATOMIC_MESSAGES_MIN, Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.messages import BudgetBreached, LlmCall, StepStarted, TokenDelta

WAITING_MAX = 10_000


class Facts:
    """Publishes facts. Calls to models and starts are sent until they are stored; token deltas are sent once."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        # TELEMETRY takes no atomic batches, so groups stay below the size from which they are tried.
        self._outbox = Outbox(publisher, "facts", group_max=ATOMIC_MESSAGES_MIN - 1, waiting_max=WAITING_MAX)

    def step_started(self, fact: StepStarted) -> None:
        """An attempt takes a while."""
        self._put("step_started", fact)

    def llm_call(self, fact: LlmCall) -> None:
        """A model was called: this is the record of what it cost."""
        self._put("llm_call", fact)

    def budget_breached(self, fact: BudgetBreached) -> None:
        """A call did not fit into a budget, for the first time."""
        self._put("budget_breached", fact)

    def token_delta(self, fact: TokenDelta) -> None:
        """A piece of an answer, for live viewers; the result has all of it."""
        if self._connection.is_connected:  # nobody watches otherwise, and the buffer of a connection has no bound
            self._connection.send(subjects.fact(fact.execution_id, "token_delta"), encode(fact))

    async def drain(self, timeout_s: float) -> None:
        """Wait until what was taken is stored."""
        await self._outbox.drain(timeout_s)

    def _put(self, name: str, fact: StepStarted | LlmCall | BudgetBreached) -> None:
        if not self._outbox.put(Outgoing(subjects.fact(fact.execution_id, name), encode(fact))):
            metrics.facts_dropped.inc()
