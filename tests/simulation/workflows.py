"""Random workflows: DAGs with every rule of the core in them, from a seed."""

from __future__ import annotations

import random
from typing import Any

STEPS_MAX = 14


def random_definition(rng: random.Random) -> dict[str, Any]:
    """Return a definition of one to `STEPS_MAX` steps. All expressions in it can be evaluated without CEL."""
    count = rng.randint(1, STEPS_MAX)
    ids = [f"s{index}" for index in range(count)]
    steps = {step_id: _step(rng, ids[:index]) for index, step_id in enumerate(ids)}
    return {
        "name": "simulated",
        "limits": {"max_parallel": rng.choice((1, 2, 3, 100)), "timeout": rng.choice((30, 300))},
        "steps": steps,
        "outputs": {"last": f"${{{{ steps.{ids[-1]}.status }}}}"},
    }


def _step(rng: random.Random, before: list[str]) -> dict[str, Any]:
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
    kind = rng.choices(("python", "transform", "wait"), (8, 2, 1))[0]
    match kind:
        case "python":
            step["python"] = "simulated:work"
            if needs:
                step["input"] = {"upstream": f"${{{{ steps.{needs[0]}.status }}}}"}
        case "transform":
            step["transform"] = {"upstream": f"${{{{ steps.{needs[0]}.status }}}}"} if needs else {"constant": 1}
        case "wait":
            step["wait"] = {"delay": rng.randint(1, 10)}
    if rng.random() < 0.25:
        step["for_each"] = list(range(rng.choice((0, 1, 3, 7))))
        step["max_parallel"] = rng.choice((1, 2, 5))
    return step
