"""Rules between the fields of one step, whatever stands around it: on raw data.

Shapes are `shape.py`'s concern: what is not of the expected type is passed over here.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millrace_shared.definition.durations import parse_duration
from millrace_shared.definition.findings import Findings, mapping
from millrace_shared.definition.limits import FOR_EACH_ITEMS_MAX, ID_CHARS_MAX, INPUTS_MAX
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import CHILD_KINDS, STEP_KINDS
from millrace_shared.definition.schemas import SchemaMistake, check_schema
from millrace_shared.expressions.paths import type_name

_KINDS_WITH_INPUT = ("agent", "python", *CHILD_KINDS)
_KINDS_WITH_REPEAT = ("agent", "http", "python", *CHILD_KINDS)
_KINDS_WITH_CACHE = ("agent", "http", "python")
_KINDS_WITH_BUDGET = ("agent", *CHILD_KINDS)
_KINDS_THAT_WAIT = ("wait", "approval")
_WAITS = ("delay", "until", "signal")


def check_step(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    """Checks what holds between the fields of a step."""
    kinds = [kind for kind in STEP_KINDS if step.get(kind) is not None]
    _check_kind(step, kinds, at, findings)
    if len(kinds) == 1:
        _check_keys(step, kinds[0], at, findings)
    _check_http(step, at, findings)
    _check_wait(step, at, findings)
    _check_approval(step, at, findings)
    _check_plan(step.get("plan"), (*at, "plan"), findings)
    _check_for_each(step, at, findings)
    check_retry(step.get("retry"), (*at, "retry"), findings)
    check_json_schema(step.get("output"), (*at, "output"), findings)


def _check_kind(step: Mapping[str, Any], kinds: Sequence[str], at: Location, findings: Findings) -> None:
    if len(kinds) > 1:
        findings.add(at, f"a step has one kind, and this one has {' and '.join(kinds)}", "make it several steps")
    if not kinds:
        findings.add(at, "a step needs a kind", f"add one of {', '.join(STEP_KINDS)}")
    if step.get("prompt") is not None and kinds and "agent" not in kinds:
        findings.add((*at, "prompt"), "only agent steps have a prompt")
    if list(kinds) == ["agent"] and step.get("prompt") is None and step.get("input") is None:
        findings.add(at, "an agent step needs a prompt", "add prompt:")
    if step.get("input") is not None and kinds and not set(kinds) & set(_KINDS_WITH_INPUT):
        readers = f"only {_listed(_KINDS_WITH_INPUT)} steps do"
        findings.warn((*at, "input"), f"{kinds[0]} steps do not read input", readers)


def _check_keys(step: Mapping[str, Any], kind: str, at: Location, findings: Findings) -> None:
    """Checks the keys that have no meaning for every kind."""
    if step.get("repeat") is not None and kind not in _KINDS_WITH_REPEAT:
        findings.add((*at, "repeat"), f"{kind} steps cannot repeat", "put the step into a group, and repeat that")
    if step.get("cache") is not None and kind not in _KINDS_WITH_CACHE:
        hint = f"only those of {_listed(_KINDS_WITH_CACHE)} steps can be"
        findings.add((*at, "cache"), f"results of {kind} steps are not kept", hint)
    if step.get("budget") is not None and kind not in _KINDS_WITH_BUDGET:
        hint = f"only {_listed(_KINDS_WITH_BUDGET)} steps do"
        findings.add((*at, "budget"), f"{kind} steps call no models, so they have no budget", hint)
    if kind in ("group", "plan"):
        _check_input_names(kind, mapping(step.get("input")), (*at, "input"), findings)
    if kind in _KINDS_THAT_WAIT:
        if step.get("retry") is not None:
            findings.warn((*at, "retry"), f"{kind} steps are not retried", "remove it")
        if step.get("timeout") is not None:
            own = "write approval: {deadline: ...}" if kind == "approval" else "write wait: {signal: ..., timeout: ...}"
            findings.warn((*at, "timeout"), f"timeout has no meaning for {kind} steps", own)


def _check_input_names(kind: str, given: Mapping[str, Any], at: Location, findings: Findings) -> None:
    """Checks the keys of a step's input that become the inputs of what it runs."""
    if len(given) > INPUTS_MAX:
        findings.add(at, f"a {kind} has at most {INPUTS_MAX} inputs, and these are {len(given)}")
    for name in given:
        if not 1 <= len(name) <= ID_CHARS_MAX:
            findings.add((*at, name), f"the name of an input has 1 to {ID_CHARS_MAX} characters")


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _check_http(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    call = mapping(step.get("http"))
    if call.get("json") is not None and call.get("body") is not None:
        findings.add((*at, "http", "body"), "a request has one body, and json is given, too", "remove one of them")
    url = call.get("url")
    if isinstance(url, str) and not url.startswith(("http://", "https://", "${{")):
        findings.add((*at, "http", "url"), "a url begins with http:// or https://", f"write https://{url[:60]}")


def _check_wait(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    raw = step.get("wait")
    if not isinstance(raw, dict):
        return
    if len([key for key in _WAITS if raw.get(key) is not None]) != 1:
        findings.add((*at, "wait"), f"a wait has exactly one of {_listed(_WAITS)}", "write wait: {delay: 5s}")
    until = raw.get("until")
    if isinstance(until, str) and "${{" not in until and not is_time(until):
        hint = "write it like 2026-01-15T10:00:00Z"
        findings.add((*at, "wait", "until"), f'"{until[:60]}" is not an RFC 3339 time with a zone', hint)
    if raw.get("signal") is None:
        for key in ("timeout", "default"):
            if raw.get(key) is not None:
                findings.add((*at, "wait", key), f"only a wait for a signal has a {key}", "remove it")
    elif _has_expression(raw.get("default")):
        findings.add((*at, "wait", "default"), "a default is written out, without expressions")


def _has_expression(value: Any) -> bool:
    if isinstance(value, str):
        return "${{" in value
    if isinstance(value, dict):
        return any(_has_expression(item) for item in value.values())
    return isinstance(value, list) and any(_has_expression(item) for item in value)


def is_time(text: str) -> bool:
    """Tells whether a text is an RFC 3339 time, with its zone."""
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _check_approval(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    approval = mapping(step.get("approval"))
    check_json_schema(approval.get("form"), (*at, "approval", "form"), findings)
    if approval.get("default") is not None and approval.get("deadline") is None:
        problem = "default says what the deadline does, and there is none"
        findings.warn((*at, "approval", "default"), problem, "add deadline: 24h")


def _check_plan(plan: Any, at: Location, findings: Findings) -> None:
    if plan is None:
        return
    if isinstance(plan, dict):
        if plan.get("steps") is None:
            findings.add(at, "a plan has steps", "add steps:")
    else:
        _check_expression(plan, at, findings, "an expression or an object")


def _check_for_each(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    items = step.get("for_each")
    place = (*at, "for_each")
    if items is None:
        if step.get("max_parallel") is not None:
            findings.warn((*at, "max_parallel"), "max_parallel has no meaning without for_each", "remove it")
    elif isinstance(items, list):
        if len(items) > FOR_EACH_ITEMS_MAX:
            findings.add(place, f"the list has {len(items)} items, and {FOR_EACH_ITEMS_MAX} are allowed")
    else:
        _check_expression(items, place, findings, "a list or an expression")


def _check_expression(value: Any, at: Location, findings: Findings, what: str) -> None:
    """Checks that a value is one whole expression; `what` says what else it might have been."""
    if not isinstance(value, str):
        findings.add(at, f"{what} is needed here, and this is {type_name(value)}")
    elif not (value.strip().startswith("${{") and value.strip().endswith("}}")):
        findings.add(at, f"{what} is needed here, and this is text", f"write ${{{{ {value[:60]} }}}}")


def check_retry(raw: Any, at: Location, findings: Findings) -> None:
    """Checks that the pauses of a retry rule fit each other."""
    retry = mapping(raw)
    longest, first = duration_s(retry.get("max")), duration_s(retry.get("initial"))
    if longest is not None and first is not None and first > longest:
        findings.add((*at, "initial"), f"the first pause ({first:g} s) is longer than the longest ({longest:g} s)")


def check_json_schema(schema: Any, at: Location, findings: Findings) -> bool:
    """Checks a JSON Schema that the author wrote; returns whether it is one."""
    if not isinstance(schema, dict):
        return False
    try:
        check_schema(schema)
    except SchemaMistake as mistake:
        findings.add((*at, *mistake.location), str(mistake))
        return False
    return True


def check_patience(step: Mapping[str, Any], at: Location, limit_s: float, findings: Findings) -> None:
    """Warns of waits that the execution will not live to see the end of.

    Args:
        step: The raw step.
        at: Where it stands.
        limit_s: Longest time that the execution may take.
        findings: Receives the warnings.
    """
    for below, value in _long_times(step):
        seconds = duration_s(value)
        if seconds is not None and seconds > limit_s:
            problem = f"the execution ends {limit_s:g} s after its start, before these {seconds:g} s are over"
            findings.warn((*at, *below), problem, "raise limits.timeout")


def _long_times(step: Mapping[str, Any]) -> Iterator[tuple[Location, Any]]:
    yield ("approval", "deadline"), mapping(step.get("approval")).get("deadline")
    for key in ("delay", "timeout"):
        yield ("wait", key), mapping(step.get("wait")).get(key)
    if any(step.get(kind) is not None for kind in CHILD_KINDS):
        yield ("timeout",), step.get("timeout")


def duration_s(value: Any) -> float | None:
    """Returns a duration in seconds; None if there is none, or it is not one."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError:
        return None
