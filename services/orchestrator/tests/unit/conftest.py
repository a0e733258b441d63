from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from millrace_orchestrator.domain.commands import Arm, Command, Run, commands
from millrace_orchestrator.domain.decide import decide
from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.expressions.evaluators import LocalEvaluator
from millrace_shared.messages import (
    CancelRequest,
    ErrorInfo,
    Event,
    InboxMessage,
    StartRequest,
    StepResult,
    TimerFired,
)
from millrace_shared.values import Payload


@dataclass
class Play:
    """An execution played by hand: feed it messages, look at events and commands."""

    plan: Plan
    now: float = 1_000.0
    state: ExecutionState | None = None
    events: list[Event] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    memo: dict[str, list[Any]] = field(default_factory=dict)
    definitions: dict[str, bytes] = field(default_factory=dict)

    def feed(self, message: InboxMessage, loaded: dict[Any, Any] | None = None) -> tuple[Event, ...]:
        evaluate = LocalEvaluator().evaluate
        decision = decide(self.plan, self.state, message, self.now, evaluate, loaded or {}, self.memo)
        self.state = decision.state
        self.definitions |= decision.definitions
        self.events += decision.events
        if decision.state is not None:
            self.commands += commands(self.plan, decision.state, decision.events)
        return decision.events

    def start(self, data: Any = None) -> tuple[Event, ...]:
        payload = data if isinstance(data, Payload) else Payload(data or {})
        return self.feed(StartRequest("e1", "default", "wf-1", "wf", 3, "hash", self.now, input=payload))

    def complete(self, step: str, output: Any = None, item: int | None = None, attempt: int = 1) -> tuple[Event, ...]:
        payload = output if isinstance(output, Payload) else Payload(output)
        return self.feed(StepResult("e1", step, attempt, self.now, self.now, item=item, output=payload))

    def fail(self, step: str, category: str = "server_error", item: int | None = None, attempt: int = 1) -> Any:
        error = ErrorInfo("broken", category, "it broke")
        return self.feed(StepResult("e1", step, attempt, self.now, self.now, item=item, error=error))

    def fire_next_timer(self) -> tuple[Event, ...]:
        arm = min((one for one in self.commands if isinstance(one, Arm)), key=lambda one: one.due)
        self.commands.remove(arm)
        self.now = max(self.now, arm.due)
        return self.feed(arm.fired)

    def cancel(self, request_id: str = "c1") -> tuple[Event, ...]:
        return self.feed(CancelRequest("e1", request_id, "enough"))

    def time_out(self) -> tuple[Event, ...]:
        assert self.state is not None
        self.now = self.state.deadline
        return self.feed(TimerFired("e1", "execution_timeout"))

    def status(self, step: str) -> str:
        assert self.state is not None
        return self.state.step(step).status

    @property
    def runs(self) -> list[str]:
        return [
            one.step.step if one.step.item is None else f"{one.step.step}~{one.step.item}"
            for one in self.commands
            if isinstance(one, Run)
        ]

    @property
    def outcome(self) -> str | None:
        assert self.state is not None
        return self.state.outcome if self.state.finished else None


@pytest.fixture
def play() -> Callable[..., Play]:
    def make(steps: dict[str, Any], **rest: Any) -> Play:
        return Play(compile_plan(WorkflowDefinition.model_validate({"name": "wf", "steps": steps, **rest})))

    return make
