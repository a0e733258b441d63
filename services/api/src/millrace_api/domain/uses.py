"""The workflows that a definition's steps run, with the places where it names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from millrace_shared.definition.kinds import WorkflowCall
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import PART_SEPARATOR, walk
from millrace_shared.expressions.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Known:
    """What a workspace has under a name."""

    latest_version: int
    archived: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """A call that leads nowhere."""

    location: Location
    message: str
    suggestion: str | None = None


def calls_of(definition: WorkflowDefinition) -> Iterator[tuple[Location, WorkflowCall]]:
    """Yield every `workflow` step's call with its location in the document, groups included."""
    for path, step in walk(definition.steps):
        if step.workflow is not None:
            location: Location = ("steps", *_inside(path), "workflow")
            yield location, step.workflow


def missing(definition: WorkflowDefinition, known: Mapping[str, Known], names: list[str]) -> list[Missing]:
    """Return the calls of a definition that lead nowhere. A workflow may call itself, before there is one, too.

    Args:
        definition: the definition that is to be saved.
        known: what the workspace has, of the names that the definition calls.
        names: every name that may be suggested.
    """
    found: list[Missing] = []
    for location, call in calls_of(definition):
        there = known.get(call.name)
        if there is None and (call.name != definition.name or call.version is not None):
            message = f'there is no workflow "{call.name}" in this workspace'
            found.append(Missing(location, message, did_you_mean(call.name, names)))
        elif there is not None and there.archived and call.name != definition.name:
            found.append(Missing(location, f'workflow "{call.name}" is archived', "save it anew to bring it back"))
        elif there is not None and call.version is not None and call.version > there.latest_version:
            message = f'workflow "{call.name}" has no version {call.version}'
            found.append(Missing(location, message, f"its latest is {there.latest_version}"))
    return found


def _inside(path: str) -> Iterator[str]:
    """Yield the keys of a step's path below `steps`: `team/write` is `team.group.steps.write`."""
    for position, step_id in enumerate(path.split(PART_SEPARATOR)):
        if position:
            yield from ("group", "steps")
        yield step_id
