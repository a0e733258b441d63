"""A definition compiled for the engine: adjacency, compiled expressions, and what a runner needs, once per version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from millrace_orchestrator.domain.rules import GateRule, gate_rules
from millrace_shared.definition import graph
from millrace_shared.definition.kinds import Approval
from millrace_shared.definition.model import Budget, Retry, RunRule, Step, StepKind, WorkflowDefinition
from millrace_shared.expressions.condition import Condition, compile_condition
from millrace_shared.expressions.template import Template, compile_template

CHILD_KINDS: frozenset[StepKind] = frozenset({"workflow", "group", "plan"})
"""Kinds that are performed by an execution of their own."""
PLACELESS_KINDS: frozenset[StepKind] = frozenset({"transform", "wait", "approval"})
"""Kinds that nobody performs: they take no place among those that run."""


@dataclass(frozen=True, slots=True)
class PlannedRepeat:
    """The loop around a step: again until the condition holds, `max` times at most, with a pause of `delay_s`."""

    until: Condition
    max: int
    fails_at_max: bool
    delay_s: float


@dataclass(frozen=True, slots=True)
class PlannedCache:
    """The result cache of a step. Without `key` the resolved input is the key."""

    ttl_s: float
    key: Template | None


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step as the engine sees it.

    `spec` is the static part that a runner needs, as JSON. `template` resolves to the input of an attempt. `for_each`
    resolves to the list of items, and is None for a step that runs once. `use` names the workflow of a `workflow` step
    among those of the request. `output_schema` is that of a step whose
    output no runner checks. `signal` is what a `wait` step waits for, and `signal_default` stands in
    for it when the time is up.
    """

    id: str
    kind: StepKind
    needs: tuple[str, ...]
    children: tuple[str, ...]
    run: RunRule
    when: Condition | None
    for_each: Template | None
    template: Template
    max_parallel: int
    retry: Retry
    timeout_s: float
    continue_on_error: bool
    spec: msgspec.Raw
    repeat: PlannedRepeat | None = None
    cache: PlannedCache | None = None
    approval: Approval | None = None
    output_schema: dict[str, Any] | None = None
    signal: str | None = None
    signal_default: tuple[Any] | None = None
    use: str | None = None
    budget: Budget | None = None

    @property
    def is_cleanup(self) -> bool:
        """Whether the step may still start when the execution is ending."""
        return self.run in {"always", "on_failure"}

    @property
    def performer(self) -> Literal["runner", "child", "nobody"]:
        """Who performs an attempt of it."""
        if self.kind in CHILD_KINDS:
            return "child"
        return "nobody" if self.kind in PLACELESS_KINDS else "runner"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole workflow, or a part of it, as the engine sees it."""

    name: str
    definition: WorkflowDefinition
    steps: dict[str, PlannedStep]
    roots: tuple[str, ...]
    outputs: Template
    timeout_s: float
    max_parallel: int
    gates: tuple[GateRule, ...]


def compile_plan(definition: WorkflowDefinition) -> Plan:
    """Compile a validated definition, or a part of one. Linear in steps and needs.

    Raises:
        ExpressionFailure: an expression does not compile, so the definition was never validated.
    """
    needs = {step_id: step.needs for step_id, step in definition.steps.items()}
    children = graph.children(needs)
    steps = {
        step_id: _planned(definition, step_id, step, children[step_id]) for step_id, step in definition.steps.items()
    }
    return Plan(
        name=definition.name,
        definition=definition,
        steps=steps,
        roots=tuple(step_id for step_id, step in steps.items() if not step.needs),
        outputs=compile_template(definition.outputs),
        timeout_s=definition.limits.timeout,
        max_parallel=definition.limits.max_parallel,
        gates=gate_rules(definition),
    )


def _planned(definition: WorkflowDefinition, step_id: str, step: Step, children: tuple[str, ...]) -> PlannedStep:
    wait = step.wait
    return PlannedStep(
        id=step_id,
        kind=step.kind,
        needs=tuple(dict.fromkeys(step.needs)),
        children=children,
        run=step.run,
        when=compile_condition(step.when) if step.when is not None else None,
        for_each=compile_template(step.for_each) if step.for_each is not None else None,
        template=compile_template(definition.template_of(step_id)),
        max_parallel=definition.max_parallel_of(step_id),
        retry=definition.retry_of(step_id),
        timeout_s=definition.timeout_s_of(step_id),
        continue_on_error=step.on_error == "continue",
        spec=_spec(definition, step),
        repeat=_repeat(step),
        cache=_cache(step),
        approval=step.approval,
        output_schema=step.output if step.kind in CHILD_KINDS | PLACELESS_KINDS else None,
        signal=wait.signal if wait is not None else None,
        signal_default=(wait.default,) if wait is not None and wait.has_default else None,
        use=step.workflow.key if step.workflow is not None else None,
        budget=step.budget,
    )


def _repeat(step: Step) -> PlannedRepeat | None:
    if step.repeat is None:
        return None
    rule = step.repeat
    return PlannedRepeat(compile_condition(rule.until), rule.max, rule.on_max == "fail", rule.delay)


def _cache(step: Step) -> PlannedCache | None:
    if step.cache is None:
        return None
    key = step.cache.key
    return PlannedCache(step.cache.ttl, compile_template(key) if key is not None else None)


def _spec(definition: WorkflowDefinition, step: Step) -> msgspec.Raw:
    """What the runner must know beyond the resolved input; the shapes are listed in docs/architecture.md."""
    spec: dict[str, object] = {}
    if step.output is not None:
        spec["output"] = step.output
    if step.python is not None:
        spec["call"] = step.python.call
    if step.agent is not None:
        agent = definition.agents[step.agent].model_dump(mode="json", exclude_none=True)
        spec["agent"] = {"name": step.agent, **agent}
    return msgspec.Raw(msgspec.json.encode(spec))
