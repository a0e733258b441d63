"""The four pieces of work that engines like this are compared by: each step is `fib(n)` in another process."""

from __future__ import annotations

from typing import Any

FUNCTION = "millrace_agent_runner.functions:fib"


def _fib(number: int, needs: list[str]) -> dict[str, Any]:
    return {"python": FUNCTION, "input": {"n": number}, "needs": needs}


def chain(name: str, length: int, number: int) -> dict[str, Any]:
    """`length` steps in a row."""
    steps = {f"s{index}": _fib(number, [f"s{index - 1}"] if index else []) for index in range(length)}
    return {"version": 1, "name": name, "steps": steps}


def fan(name: str, width: int, number: int) -> dict[str, Any]:
    """One step, then `width` in parallel, then one."""
    middle = [f"m{index}" for index in range(width)]
    steps = {
        "first": _fib(number, []),
        **{step: _fib(number, ["first"]) for step in middle},
        "last": _fib(number, middle),
    }
    return {"version": 1, "name": name, "limits": {"max_parallel": width}, "steps": steps}


WORKFLOWS: dict[str, dict[str, Any]] = {
    "single": chain("single", 1, 1),
    "seq3": chain("seq3", 3, 1),
    "seq40": chain("seq40", 40, 10),
    "fan100": fan("fan100", 100, 1),
}
