"""What a definition is composed of: its groups as definitions of their own, and what it uses and waits for.

Everything composed runs as an execution of its own. That of a group needs a definition, and this is where it comes
from: `part_of(definition, "outer/inner")`.
"""

from collections.abc import Iterator, Mapping

from millrace_shared.definition.errors import DefinitionError
from millrace_shared.definition.model import Step, WorkflowDefinition

PART_SEPARATOR = "/"
"""Between the step ids of a part's path."""


class PartUnknown(DefinitionError):
    """A definition has no group at a path. Its version, or the path, belongs to another definition."""


def part_of(definition: WorkflowDefinition, part: str) -> WorkflowDefinition:
    """Returns the definition that a group's execution runs.

    It has the name, agents, secrets, defaults and limits of the whole, but a step's `timeout` goes before that of
    `limits`. Its inputs are the keys of the step's `input`, of any type; its outputs are its own, else those of the
    steps that no other one needs.

    Args:
        definition: The whole workflow.
        part: Step ids from the outside in, joined by `/`; empty for the whole.

    Raises:
        PartUnknown: There is no group at that path.
    """
    for step_id in part.split(PART_SEPARATOR) if part else ():
        step = definition.steps.get(step_id)
        if step is None or step.group is None:
            raise PartUnknown(f'the workflow {definition.name} has no group "{part}": "{step_id}" is none')
        definition = _inside(definition, step)
    return definition


def _inside(definition: WorkflowDefinition, step: Step) -> WorkflowDefinition:
    assert step.group is not None
    limits = definition.limits
    if step.timeout is not None:
        limits = limits.model_copy(update={"timeout": step.timeout})
    return WorkflowDefinition(
        name=definition.name,
        inputs={name: {} for name in step.input or {}},
        secrets=definition.secrets,
        limits=limits,
        defaults=definition.defaults,
        agents=definition.agents,
        steps=step.group.steps,
        outputs=step.group.outputs or sink_outputs(step.group.steps),
    )


def sink_outputs(steps: Mapping[str, Step]) -> dict[str, str]:
    """Returns outputs for steps that name none: those of the steps that no other one needs, by their ids."""
    needed = {need for step in steps.values() for need in step.needs}
    return {step_id: f"${{{{ steps.{step_id}.output }}}}" for step_id in steps if step_id not in needed}


def groups_of(definition: WorkflowDefinition) -> Iterator[str]:
    """Yields the paths of all groups, as `part_of` takes them, the outer ones before those inside."""
    return (path for path, step in walk(definition.steps) if step.group is not None)


def uses_of(definition: WorkflowDefinition) -> frozenset[tuple[str, int | None]]:
    """Returns the workflows that a definition's steps run, groups included: name, and version if one is given."""
    calls = (step.workflow for _, step in walk(definition.steps))
    return frozenset((call.name, call.version) for call in calls if call is not None)


def signals_of(definition: WorkflowDefinition) -> frozenset[str]:
    """Returns the signals that steps of this level wait for; a group's execution is signalled itself."""
    waits = (step.wait for step in definition.steps.values())
    return frozenset(wait.signal for wait in waits if wait is not None and wait.signal is not None)


def walk(steps: Mapping[str, Step], prefix: str = "") -> Iterator[tuple[str, Step]]:
    """Yields every step with its path, those inside of groups after the step that holds them."""
    for step_id, step in steps.items():
        path = f"{prefix}{step_id}"
        yield path, step
        if step.group is not None:
            yield from walk(step.group.steps, path + PART_SEPARATOR)
