"""Rules of guards, on raw data, so that they report at once with all others."""

from collections.abc import Mapping
from typing import Any

from millrace_shared.definition.findings import Findings, mapping
from millrace_shared.definition.guards import CHECKS
from millrace_shared.definition.locations import Location
from millrace_shared.definition.step_rules import check_json_schema
from millrace_shared.expressions.regex import RegexInvalid, compile_regex


def check_guards(guards: Any, at: Location, findings: Findings) -> None:
    """Checks what holds between the fields of an agent's guards, on raw data."""
    for side in ("input", "output"):
        listed = mapping(guards).get(side)
        names: set[str] = set()
        for position, raw in enumerate(listed if isinstance(listed, list) else []):
            guard = mapping(raw)
            place = (*at, side, position)
            _check_guard(guard, place, findings)
            if side == "input" and guard.get("action") == "retry":
                hint = "write action: block, or action: flag"
                findings.add((*place, "action"), "a prompt cannot be tried again, only an answer can", hint)
            name = name_of(guard)
            if name in names:
                hint = "give each guard a name of its own"
                findings.add((*place, "name"), f'two guards of the {side} are called "{name[:64]}"', hint)
            names.add(name)


def name_of(guard: Mapping[str, Any]) -> str:
    """Returns what the score of a guard is called."""
    name = guard.get("name") or next((check for check in CHECKS if guard.get(check) is not None), "")
    return str(name)


def _check_guard(guard: Mapping[str, Any], at: Location, findings: Findings) -> None:
    given = [check for check in CHECKS if guard.get(check) is not None]
    if len(given) != 1:
        findings.add(at, f"a guard checks one thing, and this one {len(given)}", f"give it one of {', '.join(CHECKS)}")
    if guard.get("expect") is not None and guard.get("regex") is None:
        findings.add((*at, "expect"), "only a guard with a regex has this", "remove it")
    regex = guard.get("regex")
    if isinstance(regex, str):
        try:
            compile_regex(regex)
        except RegexInvalid as error:
            findings.add((*at, "regex"), f"this is no regular expression: {error}")
    check_json_schema(guard.get("json_schema"), (*at, "json_schema"), findings)
