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

import msgspec
from actors import Orchestrator, Runner
from faults import Crash, Faults
from invariants import check, check_family, check_gates, expected_statuses
from workflows import CHILD, SIGNALS, child_definition, random_definition
from world import World

from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    CancelRequest,
    ContinueRequest,
    InboxMessage,
    Origin,
    PauseRequest,
    ResumeRequest,
    Reuse,
    ReusedStep,
    SignalRequest,
    StartRequest,
    Use,
    VerdictRequest,
)
from millrace_shared.values import Payload

EXECUTIONS_MAX = 4
CALM_AFTER_MOVES = 600
"""From here on nothing fails any more: what has been accepted must now come to its end."""
MOVES_MAX = 20_000
MOMENTS_S = (0.0, 1.0, 3.0, 10.0, 40.0)
RETRIED = 0.3
PATIENT_S = 300
"""A workflow with this limit has time enough for every pause, if nobody dies on the way."""


@dataclass(frozen=True)
class History:
    """What one seed led to."""

    seed: int
    outcomes: tuple[str, ...]
    crashes: int
    moves: int
    slept: int


def simulate(seed: int, *, verbose: bool = False) -> History:
    """Play one history and check every invariant. Raises AssertionError when one does not hold."""
    rng = random.Random(seed)
    world = World(rng)
    crash = rng.choice((0.0, 0.01, 0.05, 0.15))
    failures = rng.choice((0.0, 0.1, 0.4))
    faults = Faults(rng, crash)
    actors = Actors(
        [Orchestrator(world, faults) for _ in range(rng.randint(1, 3))],
        [Runner(world, faults, failures) for _ in range(rng.randint(1, 3))],
    )
    outside = _accept(rng, world)
    disturbed = {message.execution_id for _, message in outside}
    played = Counter(crashes=0, moves=0)
    _play(world, actors, outside, played)
    for execution_id in list(world.logs):
        if rng.random() < RETRIED and _retry(world, execution_id):
            _play(world, actors, [], played)
    if verbose:
        for execution_id in world.logs:
            _print(world, execution_id)
    outcomes = []
    for execution_id in world.requests:
        plan, log = world.plan(execution_id), world.read(execution_id)
        try:
            check(plan, log)
        except AssertionError as error:
            raise AssertionError(f"{execution_id}: {error}") from None
        outcomes.append(log[-1].events[-1].status)  # type: ignore[union-attr]
        simple = failures == 0.0 and execution_id not in disturbed and is_simple(plan, world.requests[execution_id])
        if simple and crash == 0.0 and plan.timeout_s >= PATIENT_S:
            assert outcomes[-1] == "completed", f"nothing was in its way, and it ended {outcomes[-1]}"
        if simple and outcomes[-1] == "completed":
            state = fold(plan, log)
            assert {step_id: state.step(step_id).status for step_id in plan.steps} == expected_statuses(plan)
    check_family(world)
    check_gates(world)
    assert not world.active(), "an execution has ended, and its start is still in the inbox"
    return History(seed, tuple(outcomes), played["crashes"], played["moves"], world.slept)


@dataclass
class Actors:
    """Everybody who acts."""

    orchestrators: list[Orchestrator]
    runners: list[Runner]

    @property
    def all(self) -> tuple[Orchestrator | Runner, ...]:
        """All of them."""
        return (*self.orchestrators, *self.runners)


def _play(world: World, actors: Actors, outside: list[tuple[float, InboxMessage]], played: Counter[str]) -> None:
    """Let everybody act, in any order, until nothing is left to do."""
    rng, orchestrators = world.rng, actors.orchestrators
    faults = orchestrators[0].faults
    moves = 0
    while moves < MOVES_MAX:
        moves += 1
        if moves == CALM_AFTER_MOVES:
            faults.crash = 0.0
            _take_over(orchestrators)
            for execution_id in world.requests:  # whoever paused it has gone home
                world.send(ResumeRequest(execution_id, id="calm"))
        for due, message in [entry for entry in outside if entry[0] <= world.now]:
            outside.remove((due, message))
            world.send(message)
        if moves < CALM_AFTER_MOVES and rng.random() < 0.003:
            world.lose_work()
            played["crashes"] += _take_over(orchestrators)
        actor = rng.choice(actors.all)
        try:
            busy = actor.step()
        except Crash:
            played["crashes"] += 1
            busy = True
            if isinstance(actor, Orchestrator):
                actor.forget()
                played["crashes"] += _take_over([rng.choice(orchestrators)])
        if not busy and not _pass_time(world, orchestrators, outside):
            break
    played["moves"] += moves


def is_simple(plan: Plan, request: StartRequest) -> bool:
    """Whether it is known beforehand how each step of an execution ends when nothing fails."""
    if plan.gates or request.breakpoints or request.parent is not None or request.origin is not None:
        return False
    return all(
        step.performer != "child" and step.approval is None and step.signal is None and step.repeat is None
        for step in plan.steps.values()
    )


def _accept(rng: random.Random, world: World) -> list[tuple[float, InboxMessage]]:
    """Accept a few executions; return what will come from outside for them, and when."""
    outside: list[tuple[float, InboxMessage]] = []
    world.definitions["child"] = WorkflowDefinition.model_validate(child_definition(rng))
    digest = ""
    for number in range(rng.randint(1, EXECUTIONS_MAX)):
        execution_id = new_id(world.now, rng.randbytes(10))
        if not digest or rng.random() < 0.6:
            digest = f"definition {number}"
            world.definitions[digest] = WorkflowDefinition.model_validate(random_definition(rng))
        steps = list(world.definitions[digest].steps)
        world.accept(
            StartRequest(
                execution_id,
                "w",
                digest,
                "wf",
                1,
                digest,
                world.now,
                input=Payload({}),
                uses={CHILD: Use("child", 1, "child")},
                breakpoints=tuple(rng.sample(steps, 1)) if rng.random() < 0.1 else (),
            )
        )
        outside += [(world.now + rng.choice(MOMENTS_S), one) for one in _outside(rng, execution_id, steps)]
    return outside


def _outside(rng: random.Random, execution_id: str, steps: list[str]) -> list[InboxMessage]:
    """Return what people and other systems send to an execution."""
    messages: list[InboxMessage] = [
        CancelRequest(execution_id, id=str(number)) for number in range(rng.choices((0, 1, 2), (8, 2, 1))[0])
    ]
    for number in range(rng.choices((0, 1, 3), (6, 2, 1))[0]):
        messages.append(SignalRequest(execution_id, f"signal {number}", rng.choice(SIGNALS), Payload({"n": number})))
        step, approved = rng.choice(steps), rng.random() < 0.6
        messages.append(VerdictRequest(execution_id, f"verdict {number}", step, approved, requested_by="someone"))
        messages.append(ContinueRequest(execution_id, f"continue {number}", rng.choice(steps)))
    for number in range(rng.choices((0, 1, 2), (6, 2, 1))[0]):
        messages += [PauseRequest(execution_id, f"pause {number}"), ResumeRequest(execution_id, f"resume {number}")]
    return messages


def _retry(world: World, execution_id: str) -> bool:
    """Start an execution anew from what another one completed, if that failed; tell whether it did."""
    state = fold(world.plan(execution_id), world.read(execution_id))
    if state.outcome == "completed" or state.request.parent is not None:
        return False
    request = StartRequest(
        new_id(world.now, world.rng.randbytes(10)),
        "w",
        state.request.workflow_id,
        "wf",
        1,
        state.request.definition,
        world.now,
        input=state.request.input,
        uses=state.request.uses,
        origin=Origin("retry", execution_id),
        reuse=Payload(msgspec.to_builtins(_completed(state), str_keys=True)),
    )
    world.accept(request)
    return True


def _completed(state: ExecutionState) -> Reuse:
    """Return what an execution has to give to a retry of it."""
    steps = {}
    for step_id, step in state.steps.items():
        if step.status == "completed":
            steps[step_id] = ReusedStep(step.work.output)
        elif step.is_expanded:
            items = {index: work.output for index, work in step.items.items() if work.status == "completed"}
            steps[step_id] = ReusedStep(items=items)
    return Reuse(state.execution_id, steps)


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


def _pass_time(world: World, orchestrators: list[Orchestrator], outside: list[tuple[float, InboxMessage]]) -> bool:
    """Nobody has anything to do: go to the next moment at which somebody has. False when there is none."""
    if world.receive_possible() or world.work_possible():
        world.now += 0.01
        world.fire_long_timers()
        return True
    moments = [world.next_moment(), *(orchestrator.next_moment() for orchestrator in orchestrators)]
    moments += [due for due, _ in outside]
    known = [moment for moment in moments if moment is not None]
    if not known or not (world.inbox or world.work or world.long_timers or outside):  # who sleeps has timers only
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
