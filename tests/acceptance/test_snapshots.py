"""A long execution outlives its orchestrator, and goes on from a snapshot instead of from its beginning."""

from __future__ import annotations

import re
import time
from threading import Event
from typing import Any

import httpx

ITERATIONS = 900
DEADLINE_S = 120.0
COUNT = {"seconds": 0.005, "result": {"n": "${{ iteration }}", "before": "${{ previous.n }}"}}
STEPS = {
    "count": {
        "python": "millrace_agent_runner.functions.testing:sleep",
        "input": COUNT,
        "repeat": {"until": f"output.n >= {ITERATIONS}", "max": ITERATIONS + 50},
    },
    "after": {"needs": ["count"], "transform": "${{ steps.count.output }}"},
}


def snapshots(millrace: Any, what: str) -> float:
    """Return a counter of the orchestrator that runs now."""
    try:
        text = httpx.get(f"{millrace.stack.stack.url('orchestrator')}/metrics", timeout=30).text
    except httpx.TransportError:  # it is not back yet
        return 0.0
    found = re.search(rf'^millrace_orchestrator_snapshots_total{{what="{what}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_for(millrace: Any, what: str) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, Event()
    while snapshots(millrace, what) < 1:
        assert time.monotonic() < deadline, f"no snapshot was {what} within {DEADLINE_S:g} s"
        pause.wait(0.02)


def test_a_long_execution_goes_on_from_its_snapshot_after_a_kill(millrace: Any) -> None:
    name = millrace.save({"name": "counting", "steps": STEPS, "outputs": {"last": "${{ steps.after.output }}"}})
    execution_id = millrace.start(name)
    wait_for(millrace, "taken")
    millrace.stack.kill("orchestrator")
    millrace.stack.wait_ready("orchestrator", DEADLINE_S)
    wait_for(millrace, "used")
    detail = millrace.ended(execution_id, DEADLINE_S)
    assert detail["status"] == "completed", detail
    # Each iteration is given what the one before came to: none was left out, and none came twice.
    assert detail["results"] == {"last": {"n": ITERATIONS, "before": ITERATIONS - 1}}
