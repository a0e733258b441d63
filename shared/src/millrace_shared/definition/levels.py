"""The graphs of a document that is raw data and may have mistakes: the workflow's own, and those of its groups."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from millrace_shared.definition.findings import mapping
from millrace_shared.definition.locations import Location


@dataclass(frozen=True, slots=True)
class Level:
    """One graph of steps.

    Attributes:
        at: Where it stands: `()` for the workflow, `("steps", "team", "group")` for a group.
        data: What stands there.
        inputs: The schemas of its inputs by name; those of a group are not known, and empty.
        depth: Groups that it is inside of, itself included.
        outside: The level that holds the group's step; None for the workflow.
    """

    at: Location
    data: dict[str, Any]
    inputs: Mapping[str, Any]
    depth: int = 0
    outside: "Level | None" = None

    @property
    def steps(self) -> dict[str, Any]:
        """The steps of this level, by id."""
        return mapping(self.data.get("steps"))

    @property
    def holder(self) -> str | None:
        """Id of the step that is the group; None for the workflow."""
        return str(self.at[-2]) if self.outside is not None else None

    def is_outside(self, step_id: str) -> bool:
        """Tells whether a step stands on a level around this one."""
        level = self.outside
        while level is not None:
            if step_id in level.steps:
                return True
            level = level.outside
        return False

    def step_at(self, step_id: str) -> Location:
        """Returns where a step of this level stands."""
        return (*self.at, "steps", step_id)


def levels_of(data: dict[str, Any]) -> Iterator[Level]:
    """Yields the workflow's level and those of its groups, the outer ones first. The document's nesting is bounded."""
    queue = [Level((), data, mapping(data.get("inputs")))]
    for level in queue:  # the list grows while it is read: it is the queue
        yield level
        for step_id, raw in level.steps.items():
            step = mapping(raw)
            if isinstance(step.get("group"), dict):
                at = (*level.step_at(step_id), "group")
                inputs: dict[str, Any] = {name: {} for name in mapping(step.get("input"))}
                queue.append(Level(at, step["group"], inputs, level.depth + 1, level))


def sinks_of(steps: Mapping[str, Any]) -> list[str]:
    """Returns the raw steps that no other one needs."""
    needed: set[Any] = set()
    for step in steps.values():
        needs = mapping(step).get("needs")
        needed.update(need for need in (needs if isinstance(needs, list) else ()) if isinstance(need, str))
    return [step_id for step_id in steps if step_id not in needed]
