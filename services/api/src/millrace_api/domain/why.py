"""Why an execution is where it is: everything that it waits for, one sentence each. Pure.

| the execution | reasons |
|---|---|
| has no log yet | `accepted`: the orchestrators have not read its request |
| waits at a gate | `gate` |
| is paused | `paused`, and what its steps under way still do |
| is ending | `ending`, and what its steps under way still do |
| runs | those of its steps (`why_steps`); `nothing_under_way` when no step has any |
| has ended | `ended`: how, and because of which step |

An execution always has at least one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from millrace_api.domain.phrases import clock, since, span, until
from millrace_api.domain.rendering import FINAL, Row
from millrace_api.domain.why_scene import AHEAD_MAX, Line, Reason, Scene
from millrace_api.domain.why_steps import step_reasons

REASONS_MAX = 50
"""Steps of one execution that are explained one by one."""


def why(scene: Scene) -> list[Reason]:
    """Return what an execution waits for, the most telling first; never nothing."""
    row = scene.row
    if row["status"] in FINAL:
        return [_ended(row)]
    if not row["last_version"]:
        return [_accepted(scene)]
    reasons: list[Reason] = []
    if row["status"] == "paused":
        reasons.append(_paused(scene))
    if row.get("held") is not None:
        reasons.append(_held(scene))
    if row.get("ending") is not None:
        reasons.append(_ending(scene))
    steps = [reason for step in _most_telling_first(scene) for reason in step_reasons(scene, step)]
    reasons += steps[:REASONS_MAX]
    if len(steps) > REASONS_MAX:
        reasons.append(Reason("more", f"{len(steps) - REASONS_MAX} more of its steps are under way"))
    return reasons or [_nothing_under_way(scene)]


def sentence(reasons: list[Reason]) -> str:
    """Return the answer in one sentence: the first reason, and how many more there are."""
    more = len(reasons) - 1
    return reasons[0].message + (f" (and {more} more)" if more else "")


def _most_telling_first(scene: Scene) -> list[Row]:
    """What waits for somebody or something stands before what is under way, and that before the queue."""
    order = {"waiting": 0, "running": 1, "pending": 1, "queued": 2}
    return sorted(scene.steps, key=lambda step: (order.get(step["status"], 3), step.get("step_order") or 0))


def _ended(row: Row) -> Reason:
    ended, took = row["completed_at"], ""
    if row["started_at"] is not None:
        took = f" after {span((ended - row['started_at']).total_seconds())}"
    text = f"it has ended: {row['status']} at {clock(ended)}{took}"
    error = row.get("error")
    return Reason("ended", text if error is None else f"{text}, because {_because(error)}", _step_of(error))


def _because(error: Mapping[str, Any]) -> str:
    step = _step_of(error)
    message = error.get("message") or error.get("code") or "of an error"
    return f"of step `{step}`: {message}" if step is not None else f"{message}"


def _step_of(error: Mapping[str, Any] | None) -> str | None:
    step: str | None = ((error or {}).get("detail") or {}).get("step_id")
    return step


def _accepted(scene: Scene) -> Reason:
    created = scene.row["created_at"]
    text = f"it was accepted at {clock(created)} ({span((scene.now - created).total_seconds())} ago)"
    if scene.inbox is None:
        return Reason("accepted", f"{text}, and no orchestrator has begun it yet")
    if not scene.inbox.is_held:
        return Reason("accepted", f"{text}, and no orchestrator serves its partition right now")
    line = (
        f"{scene.inbox.unread} messages of its partition are not read yet" if scene.inbox.unread else "its turn comes"
    )
    return Reason("accepted", f"{text}, and no orchestrator has begun it yet: {line}")


def _paused(scene: Scene) -> Reason:
    paused = scene.row["paused"]
    by = f" by {paused['by']}" if paused["by"] else ""
    why_so = f' ("{paused["reason"]}")' if paused["reason"] else ""
    end = until(datetime.fromisoformat(paused["deadline"]), scene.now)
    text = f"it is paused{by}{why_so} {_since(paused, scene)}, at most {end}"
    return Reason("paused", f"{text}: POST /executions/{scene.execution_id}/resume", until=paused["deadline"])


def _held(scene: Scene) -> Reason:
    held = scene.row["held"]
    key = f" (key {held['key']})" if held["key"] else ""
    text = f"it waits at the gate {held['rule']}{key} {_since(held, scene)}"
    return Reason("gate", text if scene.line is None else f"{text}: {_line(held['rule'], scene.line)}")


def _line(rule: str, line: Line) -> str:
    if line.is_admitted:
        return "it has been let in, and the message that says so is on its way"
    ahead = f"{line.ahead} are ahead of it" if line.ahead < AHEAD_MAX else f"{AHEAD_MAX} or more are ahead of it"
    match rule:
        case "debounce":
            return f"it is let in once no other has come for {span(line.terms.delay_s)}"
        case "throttle":
            return f"{line.terms.limit} are let in within {span(line.terms.per_s)}, and {ahead}"
        case _:
            return f"{line.inside} are inside, of at most {line.terms.limit}, and {ahead}"


def _ending(scene: Scene) -> Reason:
    ending = scene.row["ending"]
    error = ending.get("error")
    text = f"it is ending as {ending['outcome']} {_since(ending, scene)}"
    if error is not None:
        text = f"{text}, because {_because(error)}"
    if scene.row["status"] == "paused":
        return Reason("ending", f"{text}; its cleanup waits for the pause to end", _step_of(error))
    cut_off = clock(datetime.fromisoformat(ending["deadline"]))
    text = f"{text}; what is still under way is cut off at {cut_off}"
    return Reason("ending", text, _step_of(error), until=ending["deadline"])


def _since(state: Mapping[str, Any], scene: Scene) -> str:
    return since(datetime.fromisoformat(state["since"]), scene.now)


def _nothing_under_way(scene: Scene) -> Reason:
    """An orchestrator is about to go on: between two transitions, or behind."""
    moment = since(scene.row["updated_at"], scene.now)
    last = f"the last event of its log is {scene.last_event}, {moment}"
    inbox = scene.inbox
    if inbox is None:
        state = ""
    elif not inbox.is_held:
        state = ", and no orchestrator serves its partition right now"
    else:
        state = f", and {inbox.unread} messages of its partition are not read yet"
    return Reason("nothing_under_way", f"none of its steps is under way; {last}{state}; {scene.relook}")
