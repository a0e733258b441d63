"""Why has it not ended? Asked over HTTP and on the command line of executions that wait for one thing each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millrace_shared.testing.waiting import until

FIB = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 1}}
SLEEP = "millrace_agent_runner.functions.testing:sleep"
FAIL = "millrace_agent_runner.functions.testing:fail"
ASK = {"approval": {"message": "Publish?", "deadline": "1h", "default": "reject"}}
FINAL = {"completed", "failed", "cancelled", "timeout"}

Why = dict[str, Any]


def why(millrace: Any, execution_id: str) -> Why:
    answer = millrace.http.get(f"/api/v1/executions/{execution_id}/why")
    assert answer.status_code == 200, answer.text
    found: Why = answer.json()
    assert found["reasons"]
    assert found["message"]
    return found


def explained(millrace: Any, execution_id: str, code: str, pattern: str = "") -> Why:
    """Ask until the answer is of one kind, and reads like `pattern`, in which {} stands for anything; return it."""
    found: Why = {}

    def is_of_that_kind() -> bool:
        nonlocal found
        found = why(millrace, execution_id)
        reason = found["reasons"][0]
        return bool(reason["code"] == code and reads_like(reason["message"], pattern))

    until(is_of_that_kind, lambda: f"{code}; it is {found}")
    return found


def reads_like(message: str, pattern: str) -> bool:
    return re.match(".*".join(map(re.escape, pattern.split("{}"))), message) is not None


def start(millrace: Any, name: str, steps: dict[str, Any], **keys: Any) -> str:
    rest = keys.pop("rest", {})
    return str(millrace.start(millrace.save({"name": name, "steps": steps, **keys}), **rest))


WAITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "approval": (
        {"ok": ASK},
        "approval",
        "step `ok` waits for an approval since {}(then: reject): POST {}/steps/ok/approve",
    ),
    "signal": (
        {"paid": {"wait": {"signal": "payment", "timeout": "1h"}}},
        "signal",
        "step `paid` waits for the signal `payment` since {}(then: it fails as timeout): POST {}/signal",
    ),
    "default": (
        {"paid": {"wait": {"signal": "payment", "timeout": "1h", "default": None}}},
        "signal",
        "step `paid` waits for the signal `payment` since {}(then: it completes with its default): POST {}/signal",
    ),
    "delay": ({"nap": {"wait": {"delay": "1h"}}}, "delay", "step `nap` waits since {}"),
    "until": ({"nap": {"wait": {"until": "2027-01-01T00:00:00Z"}}}, "until", "step `nap` waits since {}"),
    "running": (
        {"slow": {"python": SLEEP, "input": {"seconds": 3600}, "timeout": "20m"}},
        "running",
        "step `slow` has run for {}, of at most 20 min",
    ),
    "retry": (
        {"flaky": {"python": FAIL, "retry": {"max_attempts": 4, "initial": "1h", "jitter": False, "max": "1h"}}},
        "retry",
        "attempt 2 of 4 of step `flaky` starts in {}, after server_error: failed on purpose",
    ),
    "group": (
        {"team": {"group": {"steps": {"ok": ASK}}}},
        "child",
        "step `team` waits for its execution {}: step `ok` waits for an approval since {}",
    ),
    "items": (
        {"each": {"for_each": [1, 2], **ASK}},
        "items",
        "step `each` runs 2 items: 0 of them ended, 2 under way; the first of them: item 0 of step `each` waits {}",
    ),
    "items of groups": (
        {"each": {"for_each": [1, 2], "input": {}, "group": {"steps": {"ok": ASK}}}},
        "items",
        "step `each` runs 2 items: {}item 0 of step `each` waits for its execution {}: step `ok` waits for an {}",
    ),
}


@pytest.mark.parametrize("kind", WAITS)
def test_every_wait_is_explained(millrace: Any, kind: str) -> None:
    steps, code, pattern = WAITS[kind]
    execution_id = start(millrace, f"waits-{kind.replace(' ', '-')}", steps)
    assert explained(millrace, execution_id, code, pattern)["status"] == "running"


def test_a_chain_of_executions_is_followed_to_what_waits(millrace: Any) -> None:
    called = millrace.save({"name": "asked", "steps": {"ok": ASK}})
    calls = {"inner": {"workflow": called, "input": {}}}
    execution_id = start(millrace, "asks", {"outer": {"group": {"steps": calls}}})
    found = explained(millrace, execution_id, "child")

    def reaches_the_question() -> bool:
        nonlocal found
        found = why(millrace, execution_id)
        return "step `ok` waits for an approval" in found["message"]

    until(reaches_the_question, lambda: found["message"])
    child = found["reasons"][0]["reasons"][0]
    assert (child["code"], child["step_id"]) == ("child", "inner")
    assert child["execution_id"] != found["reasons"][0]["execution_id"]


def test_a_breakpoint_is_explained_and_so_is_a_pause(millrace: Any) -> None:
    execution_id = start(millrace, "held", {"a": FIB}, rest={"breakpoints": ["a"]})
    found = explained(millrace, execution_id, "breakpoint")
    assert found["message"].startswith("step `a` is held at a breakpoint since")
    answer = millrace.http.post(f"/api/v1/executions/{execution_id}/pause", json={"reason": "to look at it"})
    assert answer.status_code == 200, answer.text
    found = explained(millrace, execution_id, "paused")
    assert '("to look at it") since' in found["message"]
    assert found["status"] == "paused"
    assert [one["code"] for one in found["reasons"]] == ["paused", "breakpoint"]


def test_a_step_that_waits_for_a_place_says_how_many_run(millrace: Any) -> None:
    slow = {"python": SLEEP, "input": {"seconds": 3600}}
    execution_id = start(millrace, "crowded", {"a": slow, "b": slow, "c": slow}, limits={"max_parallel": 2})
    explained(millrace, execution_id, "running")
    place = next(one for one in why(millrace, execution_id)["reasons"] if one["code"] == "place")
    assert place["message"] == "step `c` is queued: 2 of its steps run at once, and limits.max_parallel is 2"


def test_a_gate_says_who_is_inside(millrace: Any) -> None:
    steps = {"slow": {"python": SLEEP, "input": {"seconds": 3600}}}
    gate = {"concurrency": {"limit": 1}}
    inside = start(millrace, "gated", steps, **gate)
    explained(millrace, inside, "running")
    execution_id = start(millrace, "gated", steps, **gate)
    found = explained(millrace, execution_id, "gate")
    assert found["status"] == "pending"
    until(
        lambda: why(millrace, execution_id)["message"].endswith("1 are inside, of at most 1, and 0 are ahead of it"),
        lambda: why(millrace, execution_id)["message"],
    )


def test_an_execution_that_ends_and_one_that_has_ended_say_how(millrace: Any) -> None:
    tidy = {"needs": ["breaks"], "run": "always", "python": SLEEP, "input": {"seconds": 3600}}
    fails = {"python": FAIL, "input": {"retryable": False}}
    execution_id = start(millrace, "ending", {"breaks": fails, "tidy": tidy})
    found = explained(millrace, execution_id, "ending")
    assert "it is ending as failed since" in found["message"]
    assert "because of step `breaks`: failed on purpose" in found["message"]
    for _ in range(2):  # the second one stops cleanup too
        millrace.http.post(f"/api/v1/executions/{execution_id}/cancel")
    millrace.ended(execution_id)
    found = why(millrace, execution_id)
    assert [one["code"] for one in found["reasons"]] == ["ended"]
    assert found["message"].startswith("it has ended: failed at ")
    assert found["reasons"][0]["step_id"] == "breaks"


def test_at_every_moment_of_a_run_there_is_a_reason(millrace: Any) -> None:
    """Asked as fast as it goes, from the acceptance to the end."""
    steps = {"first": FIB, **{f"b{n}": {**FIB, "needs": ["first"]} for n in range(5)}}
    steps["team"] = {"needs": ["b0"], "group": {"steps": {"x": FIB, "y": {**FIB, "needs": ["x"]}}}}
    workflow = millrace.save({"name": "busy", "steps": steps})
    for _ in range(10):
        execution_id = millrace.start(workflow)
        while why(millrace, execution_id)["status"] not in FINAL:
            pass


def test_the_graph_of_a_run_leads_to_its_children(millrace: Any) -> None:
    team = {"needs": ["first"], "group": {"steps": {"ok": ASK}}}
    execution_id = start(millrace, "drawn", {"first": FIB, "team": team, "last": {"needs": ["team"], **FIB}})
    explained(millrace, execution_id, "child")
    graph = millrace.http.get(f"/api/v1/executions/{execution_id}/graph").json()
    assert [(one["id"], one["kind"], one["status"]) for one in graph["nodes"]] == [
        ("first", "python", "completed"),
        ("team", "group", "pending"),
        ("last", "python", "pending"),
    ]
    assert [(one["from"], one["to"], one["status"]) for one in graph["edges"]] == [
        ("first", "team", "satisfied"),
        ("team", "last", "pending"),
    ]
    child = millrace.http.get(f"/api/v1/executions/{graph['nodes'][1]['child_execution_id']}/graph").json()
    assert ([one["id"] for one in child["nodes"]], child["part"]) == (["ok"], "team")


def test_millrace_why_prints_a_sentence_for_each_reason(millrace: Any) -> None:
    execution_id = start(millrace, "asked-twice", {"one": ASK, "two": ASK})
    explained(millrace, execution_id, "approval")
    program = Path(sys.executable).with_name("millrace")

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        key = millrace.http.headers["Authorization"].removeprefix("Bearer ")
        environment = {**os.environ, "MILLRACE_API_URL": millrace.stack.api_url, "MILLRACE_API_KEY": key}
        command = [program, "why", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    ran = ask(execution_id)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.partition(" waits for an approval since ")[0] for line in lines] == ["step `one`", "step `two`"]
    assert '"code": "approval"' in ask(execution_id, "--json").stdout
    unknown = ask("0199d5f0-0000-7000-8000-00000000dead")
    assert (unknown.returncode, "there is no execution" in unknown.stderr) == (1, True)
