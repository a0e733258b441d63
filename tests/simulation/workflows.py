"""Random workflows: DAGs with every rule of the core in them, from a seed."""

from __future__ import annotations

import random
from typing import Any

STEPS_MAX = 14
INNER_STEPS_MAX = 3
DEPTH_MAX = 2
SIGNALS = ("red", "green")
CHILD = "child"
"""The name of the workflow that `workflow` steps run."""


def random_definition(rng: random.Random) -> dict[str, Any]:
    """Return a definition of one to `STEPS_MAX` steps. All expressions in it can be evaluated without CEL."""
    definition = {
        "name": "simulated",
        "limits": {"max_parallel": rng.choice((1, 2, 3, 100)), "timeout": rng.choice((30, 300))},
        **random_steps(rng, rng.randint(1, STEPS_MAX), depth=0),
    }
    if rng.random() < 0.15:
        definition |= rng.choice(
            (
                {"concurrency": {"limit": rng.choice((1, 2)), "on_limit": rng.choice(("queue", "cancel_oldest"))}},
                {"concurrency": {"limit": 1, "on_limit": "drop"}},
                {"throttle": {"limit": 1, "per": 3, "on_limit": rng.choice(("queue", "drop"))}},
                {"debounce": {"delay": 2}},
            )
        )
    return definition


def child_definition(rng: random.Random) -> dict[str, Any]:
    """Return the workflow that `workflow` steps run: it has an input with a default, and may run itself."""
    inner = random_steps(rng, rng.randint(1, INNER_STEPS_MAX), depth=DEPTH_MAX)
    return {"name": CHILD, "inputs": {"n": {"type": "integer", "default": 1}}, **inner}


def random_steps(rng: random.Random, count: int, *, depth: int, plain: bool = False) -> dict[str, Any]:
    """Return `steps` and `outputs` of a workflow, a group or, `plain`, of a plan: without expressions of its own."""
    ids = [f"s{index}" for index in range(count)]
    steps = {step_id: _step(rng, ids[:index], depth, plain=plain) for index, step_id in enumerate(ids)}
    last = "plain" if plain else f"${{{{ steps.{ids[-1]}.status }}}}"
    outputs = {"last": last, "done": rng.random() < 0.5}
    return {"steps": steps, "outputs": outputs}


def _step(rng: random.Random, before: list[str], depth: int, *, plain: bool) -> dict[str, Any]:
    needs = rng.sample(before, min(len(before), rng.choice((0, 1, 1, 2, 3))))
    step: dict[str, Any] = {"needs": needs}
    if needs and rng.random() < 0.25:
        step["run"] = rng.choice(("strict", "always", "on_failure"))
    if rng.random() < 0.3:
        step["on_error"] = "continue"
    if rng.random() < 0.4:
        step["retry"] = {
            "max_attempts": rng.randint(2, 4),
            "initial": 1,
            "max": 5,
            "backoff": rng.choice(("exponential", "linear", "fixed")),
        }
    composed = 1 if depth < DEPTH_MAX else 0
    kinds = ("python", "transform", "wait", "approval", "group", "plan", "workflow")
    kind = rng.choices(kinds, (14, 3, 2, 1, composed, composed, composed))[0]
    step |= _kind(rng, kind, [] if plain else needs, depth)
    if rng.random() < 0.25:
        step["for_each"] = list(range(rng.choice((0, 1, 3, 7) if kind in {"python", "transform"} else (0, 1, 2))))
        step["max_parallel"] = rng.choice((1, 2, 5))
    if kind in {"python", "group", "workflow"} and rng.random() < 0.15:
        step["repeat"] = {
            "until": "output.done",
            "max": rng.randint(1, 3),
            "on_max": rng.choice(("complete", "complete", "fail")),
            "delay": rng.choice((0, 0, 2)),
        }
    return step


def _kind(rng: random.Random, kind: str, needs: list[str], depth: int) -> dict[str, Any]:
    upstream = {"upstream": f"${{{{ steps.{needs[0]}.status }}}}"} if needs else {"constant": 1}
    made: dict[str, Any] = {}
    match kind:
        case "python":
            made = {"python": "simulated:work", "input": upstream}
        case "transform":
            made = {"transform": upstream}
        case "wait":
            made = {"wait": _wait(rng)}
        case "approval":
            default = rng.choice(("approve", "reject", "fail"))
            on_reject = rng.choice(("fail", "complete"))
            made = {"approval": {"message": "?", "default": default, "on_reject": on_reject}}
            if rng.random() < 0.7:
                made["approval"]["deadline"] = 10
        case "group":
            inner = random_steps(rng, rng.randint(1, INNER_STEPS_MAX), depth=depth + 1)
            made = {"input": upstream, "group": inner}
        case "plan":
            inner = random_steps(rng, rng.randint(1, INNER_STEPS_MAX), depth=DEPTH_MAX, plain=True)
            made = {"input": upstream, "plan": inner}
        case _:
            made = {"workflow": CHILD, "input": {"n": rng.choice((1, 2, "not a number"))}}
    return made


def _wait(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"delay": rng.randint(1, 10)}
    default = {"default": None} if rng.random() < 0.7 else {}
    if rng.random() < 0.3:  # as long as the execution may last
        return {"signal": rng.choice(SIGNALS)}
    return {"signal": rng.choice(SIGNALS), "timeout": rng.randint(2, 15), **default}
