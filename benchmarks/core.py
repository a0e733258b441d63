"""What the pure core of the orchestrator costs, in microseconds, for graphs of growing size.

    python benchmarks/core.py
    python benchmarks/core.py --sizes 100 1000 10000 --results 5000

Prints one JSON object. A decision is `decide` on one result plus `commands`, as the engine makes them; the graph is
layers of ten steps, each of which needs two of the layer above. Folding is what a takeover pays for each event.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from millrace_orchestrator.domain.commands import Run, commands
from millrace_orchestrator.domain.decide import decide
from millrace_orchestrator.domain.evolve import advance, fold
from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.codec import encode
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.expressions.evaluators import LocalEvaluator
from millrace_shared.messages import LOG_VERSION, InboxMessage, StartRequest, StepResult, Transition
from millrace_shared.values import Payload

WIDTH = 10
NOW = 1_000.0


def layered(size: int) -> dict[str, Any]:
    """Return a definition of `size` python steps in layers of ten."""
    steps: dict[str, Any] = {}
    for index in range(size):
        above = index - index % WIDTH - WIDTH
        needs = sorted({f"s{index - WIDTH}", f"s{above + (index + 1) % WIDTH}"}) if above >= 0 else []
        given = {"value": f"${{{{ steps.{needs[0]}.output.value }}}}"} if needs else {"value": 1}
        steps[f"s{index}"] = {"python": "m:f", "needs": needs, "input": given}
    return {"name": "layered", "limits": {"max_parallel": 100}, "steps": steps}


class Core:
    """One execution, driven as fast as the core goes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state: ExecutionState | None = None
        self.log: list[Transition] = []
        self.evaluate = LocalEvaluator().evaluate
        self.memo: dict[str, list[Any]] = {}

    def feed(self, message: InboxMessage) -> list[Run]:
        """Decide on a message; return the attempts that follow."""
        decision = decide(self.plan, self.state, message, NOW, self.evaluate, {}, self.memo)
        if decision.state is None:
            return []
        version = len(self.log) + 1
        self.log.append(Transition(LOG_VERSION, "e1", version, NOW, decision.events))
        self.state = advance(decision.state, version)
        return [one for one in commands(self.plan, self.state, decision.events) if isinstance(one, Run)]


def measure(size: int, results_max: int) -> dict[str, float]:
    """Return the figures for one size."""
    began = time.perf_counter()
    definition = WorkflowDefinition.model_validate(layered(size))
    plan = compile_plan(definition)
    compiled = time.perf_counter()
    core = Core(plan)
    queue = core.feed(StartRequest("e1", "default", "w", "layered", 1, "hash", NOW))
    started = time.perf_counter()
    count = 0
    while queue and count < results_max:
        run = queue.pop(0).step
        queue += core.feed(StepResult("e1", run.step, run.attempt, NOW, NOW, output=Payload({"value": count})))
        count += 1
    decided = time.perf_counter()
    events = sum(len(transition.events) for transition in core.log)
    fold(plan, core.log)
    folded = time.perf_counter()
    size_bytes = sum(len(encode(transition)) for transition in core.log)
    return {
        "steps": size,
        "results": count,
        "compile_ms": round((compiled - began) * 1e3, 2),
        "start_us": round((started - compiled) * 1e6, 1),
        "decision_us": round((decided - started) / count * 1e6, 1),
        "fold_us_per_event": round((folded - decided) / events * 1e6, 2),
        "log_bytes_per_result": round(size_bytes / count, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--results", type=int, default=10_000, help="most results decided for each size")
    arguments = parser.parse_args()
    print(json.dumps([measure(size, arguments.results) for size in arguments.sizes], indent=2))


if __name__ == "__main__":
    main()
