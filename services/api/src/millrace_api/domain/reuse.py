"""What a retry or a fork takes over from an earlier execution, so that it is not paid again.

A step is taken over when it completed, and everything before it need not run again either: it completed too, or was
skipped for reasons that still hold. So cleanup that ran because of the failure runs again, and so does whatever saw the
output of a step that failed. A retry also takes over the completed items of a `for_each` that did not get through, and,
of a `group`, `workflow` or `plan` step, what the execution that performed it had completed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from millrace_api.domain.history import History
from millrace_shared.definition.graph import topological_order
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.messages import Reuse, ReusedStep

CHILD_KINDS = frozenset({"group", "workflow", "plan"})
_STAYS = frozenset({"completed", "skipped"})


@dataclass(frozen=True)
class Source:
    """An execution to take results over from.

    Attributes:
        execution_id: its id.
        history: its log, folded.
        definition: what the new execution runs in its place; the same, but for a fork to another version.
        from_step: a step that runs again whatever came of it, and so does everything after it.
        is_partial: whether steps that did not get through are taken over as far as they got.
    """

    execution_id: str
    history: History
    definition: WorkflowDefinition
    from_step: str | None = None
    is_partial: bool = True

    @cached_property
    def settled(self) -> frozenset[str]:
        """The steps that need not run again."""
        steps = self.definition.steps
        settled: set[str] = set()
        for step_id in topological_order({step_id: step.needs for step_id, step in steps.items()}):
            stays = step_id != self.from_step and self.history.unit(step_id).status in _STAYS
            if stays and settled.issuperset(steps[step_id].needs):
                settled.add(step_id)
        return frozenset(settled)

    @cached_property
    def unfinished(self) -> tuple[str, ...]:
        """The steps that had what they have now, and did not get through: what they had done is of use."""
        if not self.is_partial:
            return ()
        return tuple(
            step_id
            for step_id, step in self.definition.steps.items()
            if step_id not in self.settled
            and self.history.unit(step_id).status not in _STAYS
            and self.settled.issuperset(step.needs)
        )

    @property
    def children(self) -> dict[str, str]:
        """The executions that performed unfinished steps, by step. Iterations of a `repeat` are not told apart."""
        found = {}
        for step_id in self.unfinished:
            step = self.definition.steps[step_id]
            child = self.history.unit(step_id).child
            if child and step.kind in CHILD_KINDS and step.for_each is None and step.repeat is None:
                found[step_id] = child
        return found


def reuse_of(root: Source, children: Mapping[str, Source]) -> Reuse:
    """Return what is taken over from `root`.

    Args:
        root: the execution that is retried or forked.
        children: the executions that performed unfinished steps, theirs included, by id. One that is missing here, or
            that completed all the same, is not taken over: its step runs anew as a whole.
    """
    order = [root]
    for source in order:  # the list grows while it is read
        order += [children[child] for child in source.children.values() if child in children]
    built: dict[str, Reuse] = {}
    for source in reversed(order):  # those inside before what holds them
        built[source.execution_id] = _reuse(source, built)
    return built[root.execution_id]


def _reuse(source: Source, built: Mapping[str, Reuse]) -> Reuse:
    history = source.history
    steps: dict[str, ReusedStep] = {}
    for step_id in source.definition.steps:
        state = history.unit(step_id)
        if step_id in source.settled and state.status == "completed":
            steps[step_id] = ReusedStep(output=state.output)
    for step_id in source.unfinished:
        if source.definition.steps[step_id].for_each is not None:
            items = history.items(step_id)
            outputs = {item: state.output for item, state in items.items() if state.status == "completed"}
            if outputs:
                steps[step_id] = ReusedStep(items=outputs)
    for step_id, child in source.children.items():
        inside = built.get(child)
        if inside is not None and inside.steps:
            steps[step_id] = ReusedStep(child=inside)
    return Reuse(source.execution_id, steps)
