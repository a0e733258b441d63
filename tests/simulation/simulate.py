"""Seeded histories of whole executions: random DAGs under duplicates, redeliveries, lost acknowledgements and crashes.

    python tests/simulation/simulate.py --seeds 10000          # seeds 0 to 9999
    python tests/simulation/simulate.py --seed 4711 --verbose  # one history, event by event

A seed decides everything: the workflows, the faults and the order of events. A failing one is printed with the command
that replays it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

from actors import Crash, Faults, Orchestrator, Runner
from invariants import check, expected_statuses
from workflows import random_definition
from world import World

from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.ids import new_id
from millrace_shared.messages import CancelRequest, StartRequest
from millrace_shared.values import Payload

EXECUTIONS_MAX = 4
CALM_AFTER_MOVES = 600
"""From here on nothing fails any more: what has been accepted must now come to its end."""
MOVES_MAX = 20_000
PATIENT_S = 300
"""A workflow with this limit has time enough for every pause, if nobody dies on the way."""


@dataclass(frozen=True)
class History:
    """What one seed led to."""

    seed: int
    outcomes: tuple[str, ...]
    crashes: int
    moves: int


def simulate(seed: int, *, verbose: bool = False) -> History:
    """Play one history and check every invariant. Raises AssertionError when one does not hold."""
    rng = random.Random(seed)
    world = World(rng)
    crash = rng.choice((0.0, 0.01, 0.05, 0.15))
    failures = rng.choice((0.0, 0.1, 0.4))
    plans: dict[str, Plan] = {}
    faults = Faults(rng, crash)
    orchestrators = [Orchestrator(world, plans, faults) for _ in range(rng.randint(1, 3))]
    runners = [Runner(world, faults, failures) for _ in range(rng.randint(1, 3))]
    cancels = _accept(rng, world, plans)
    cancelled = {message.execution_id for _, message in cancels}
    crashes, moves = 0, 0
    while moves < MOVES_MAX:
        moves += 1
        if moves == CALM_AFTER_MOVES:
            faults.crash = 0.0
            _take_over(orchestrators)
        for due, message in [entry for entry in cancels if entry[0] <= world.now]:
            cancels.remove((due, message))
            world.send(message)
        if moves < CALM_AFTER_MOVES and rng.random() < 0.003:
            world.lose_work()
            crashes += _take_over(orchestrators)
        actor = rng.choice((*orchestrators, *runners))
        try:
            busy = actor.step()
        except Crash:
            crashes += 1
            busy = True
            if isinstance(actor, Orchestrator):
                actor.forget()
                crashes += _take_over([rng.choice(orchestrators)])
        if not busy and not _pass_time(world, orchestrators, cancels):
            break
    outcomes = []
    for execution_id, plan in plans.items():
        log = world.read(execution_id)
        if verbose:
            _print(world, execution_id)
        check(plan, log)
        outcomes.append(log[-1].events[-1].status)  # type: ignore[union-attr]
        untouched = failures == 0.0 and execution_id not in cancelled
        if untouched and crash == 0.0 and plan.timeout_s >= PATIENT_S:
            assert outcomes[-1] == "completed", f"nothing was in its way, and it ended {outcomes[-1]}"
        if untouched and outcomes[-1] == "completed":
            state = fold(plan, log)
            assert {step_id: state.step(step_id).status for step_id in plan.steps} == expected_statuses(plan)
    assert not world.active(), "an execution has ended, and its start is still in the inbox"
    return History(seed, tuple(outcomes), crashes, moves)


def _accept(rng: random.Random, world: World, plans: dict[str, Plan]) -> list[tuple[float, CancelRequest]]:
    """Accept a few executions; return the cancels that will come, and when."""
    cancels = []
    for _ in range(rng.randint(1, EXECUTIONS_MAX)):
        execution_id = new_id(world.now, rng.randbytes(10))
        plans[execution_id] = compile_plan(WorkflowDefinition.model_validate(random_definition(rng)))
        world.send(StartRequest(execution_id, "w", "wf", "wf", 1, "hash", world.now, input=Payload({})))
        for number in range(rng.choices((0, 1, 2), (8, 2, 1))[0]):
            when = world.now + rng.choice((0.0, 1.0, 10.0, 40.0))
            cancels.append((when, CancelRequest(execution_id, id=str(number))))
    return cancels


def _take_over(orchestrators: list[Orchestrator]) -> int:
    """Have orchestrators look at everything that is active; count those that die of it."""
    crashed = 0
    for orchestrator in orchestrators:
        try:
            orchestrator.take_over()
        except Crash:
            orchestrator.forget()
            crashed += 1
    return crashed


def _pass_time(world: World, orchestrators: list[Orchestrator], cancels: list[tuple[float, CancelRequest]]) -> bool:
    """Nobody has anything to do: go to the next moment at which somebody has. False when there is none."""
    if world.receive_possible() or world.work_possible():
        world.now += 0.01
        return True
    moments = [world.next_moment(), *(orchestrator.next_moment() for orchestrator in orchestrators)]
    moments += [due for due, _ in cancels]
    known = [moment for moment in moments if moment is not None]
    if not known or not (world.inbox or world.work or cancels):
        return False
    world.now = max(world.now, min(known)) + 0.001
    world.fire_long_timers()
    return True


def _print(world: World, execution_id: str) -> None:
    for transition in world.read(execution_id):
        for event in transition.events:
            print(f"{execution_id[-6:]} v{transition.version:<3} {transition.at:10.2f} {event}")


def _attempt(seed: int) -> tuple[History | None, str]:
    try:
        return simulate(seed), ""
    except Exception as error:  # a failing seed is reported with the command that replays it, whatever it raised
        return None, f"seed {seed}: {type(error).__name__}: {error}\n  replay: {replay(seed)}"


def replay(seed: int) -> str:
    """Return the command that plays a seed again."""
    return f"python tests/simulation/simulate.py --seed {seed} --verbose"


def main() -> int:
    """Play seeds; return 1 when any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--verbose", action="store_true", help="print every event")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(simulate(arguments.seed, verbose=arguments.verbose))
        return 0
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    crashes = failed = 0
    with multiprocessing.Pool() as pool:
        for history, problem in pool.imap_unordered(
            _attempt, range(arguments.first, arguments.first + arguments.seeds), chunksize=50
        ):
            if history is None:
                failed += 1
                print(problem, file=sys.stderr)
            else:
                outcomes.update(history.outcomes)
                crashes += history.crashes
    print(
        f"{arguments.seeds} histories, {sum(outcomes.values())} executions {dict(outcomes)}, {crashes} crashes, "
        f"{failed} failed, {time.monotonic() - started:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
