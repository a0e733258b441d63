"""A definition compiled for the engine: adjacency, compiled expressions, and what a runner needs, once per version."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from millrace_shared.definition import graph
from millrace_shared.definition.model import Retry, RunRule, Step, StepKind, WorkflowDefinition
from millrace_shared.expressions.condition import Condition, compile_condition
from millrace_shared.expressions.template import Template, compile_template


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step as the engine sees it.

    `spec` is the static part that a runner needs, as JSON. `template` resolves to the input of an attempt. `for_each`
    resolves to the list of items, and is None for a step that runs once.
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

    @property
    def is_cleanup(self) -> bool:
        """Whether the step may still start when the execution is ending."""
        return self.run in {"always", "on_failure"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole workflow as the engine sees it."""

    name: str
    steps: dict[str, PlannedStep]
    roots: tuple[str, ...]
    outputs: Template
    timeout_s: float
    max_parallel: int


def compile_plan(definition: WorkflowDefinition) -> Plan:
    """Compile a validated definition. Linear in steps and needs.

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
        steps=steps,
        roots=tuple(step_id for step_id, step in steps.items() if not step.needs),
        outputs=compile_template(definition.outputs),
        timeout_s=definition.limits.timeout,
        max_parallel=definition.limits.max_parallel,
    )


def _planned(definition: WorkflowDefinition, step_id: str, step: Step, children: tuple[str, ...]) -> PlannedStep:
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
    )


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
