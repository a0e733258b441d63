"""The way into the system for a definition that a person wrote: every mistake at once, or a definition.

```
text ── loader ──► data ──┬── shape.py    keys, types, bounds          ──┐
                          ├── rules.py    kinds, needs, cycles, schemas  ├──► problems in document order
                          └── scopes.py   expressions and what they see ──┘    or a WorkflowDefinition
```
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.findings import Finding, Findings
from millrace_shared.definition.limits import PROBLEMS_MAX
from millrace_shared.definition.loader import Document, from_data, load
from millrace_shared.definition.locations import Location, spell_location
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.rules import check_rules
from millrace_shared.definition.scopes import check_scopes
from millrace_shared.definition.shape import check_shape


@dataclass(frozen=True, slots=True)
class Validated:
    """A definition that keeps all rules.

    Attributes:
        definition: The definition.
        warnings: What is allowed but probably not meant, in document order.
    """

    definition: WorkflowDefinition
    warnings: tuple[Problem, ...]


def validate(source: str | bytes | dict[str, Any]) -> Validated:
    """Validates a workflow definition.

    Args:
        source: YAML or JSON text, UTF-8 bytes of it, or data that was parsed already (then problems have no
            lines).

    Raises:
        DefinitionInvalid: There are mistakes; has all of them in document order, each with place and
            suggestion.
    """
    document = load(source) if isinstance(source, str | bytes) else from_data(source)
    findings = Findings()
    definition = None
    if isinstance(document.data, dict):
        definition = check(document.data, findings)
    else:
        findings.add((), "a definition is an object", "begin with name: and steps:")
    return conclude(document, definition, findings)


def check(data: dict[str, Any], findings: Findings, *, inherited: Collection[str] = ()) -> WorkflowDefinition | None:
    """Finds everything that is wrong with a definition.

    Args:
        data: The definition as raw data.
        findings: Receives what is wrong.
        inherited: Agents that come from around it; see `check_scopes`.

    Returns:
        The definition; None if its shape is wrong.
    """
    definition = check_shape(data, findings)
    check_rules(data, findings)
    check_scopes(data, findings, inherited=inherited)
    return definition


def conclude(document: Document, definition: WorkflowDefinition | None, findings: Findings) -> Validated:
    """Returns the definition if nothing was found, with its warnings.

    Raises:
        DefinitionInvalid: There are mistakes; has all of them in document order.
    """
    if findings.mistakes or document.problems or definition is None:
        raise DefinitionInvalid(_all_problems(document, findings))
    return Validated(definition, tuple(_placed(document, findings.warnings)))


def _all_problems(document: Document, findings: Findings) -> list[Problem]:
    problems = _placed(document, list(findings.mistakes.values()))
    if document.problems:
        problems = sorted([*document.problems, *problems], key=lambda problem: (problem.line or 0, problem.column or 0))
    if len(problems) > PROBLEMS_MAX:
        return [*problems[:PROBLEMS_MAX], Problem("", f"there are more than {PROBLEMS_MAX} mistakes")]
    return problems


def _placed(document: Document, findings: list[Finding]) -> list[Problem]:
    """Gives findings their lines, and sorts them in the order of the document."""
    order = _DocumentOrder(document.data)
    problems = []
    for finding in sorted(findings, key=lambda finding: order.of(finding.location)):
        line, column = document.position(finding.location) or (None, None)
        place = spell_location(finding.location)
        problems.append(Problem(place, finding.message, line, column, finding.suggestion))
    return problems


class _DocumentOrder:
    """Sorts locations as they stand in the document; what is missing comes before what is there."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._ranks: dict[int, dict[str, int]] = {}

    def of(self, location: Location) -> tuple[int, ...]:
        """Returns a sort key: the position of each key in its object, -1 for one that is not there."""
        ranks: list[int] = []
        value = self._data
        for key in location:
            if isinstance(value, dict) and key in value:
                ranks.append(self._rank(value, str(key)))
                value = value[key]
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                ranks.append(key)
                value = value[key]
            else:
                ranks.append(-1)
                break
        return tuple(ranks)

    def _rank(self, container: dict[str, Any], key: str) -> int:
        ranks = self._ranks.get(id(container))
        if ranks is None:
            ranks = {name: rank for rank, name in enumerate(container)}
            self._ranks[id(container)] = ranks
        return ranks[key]
