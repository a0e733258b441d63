"""Logs that were recorded by every version of the code are read, projected and gone on with by this one.

`log-v1.jsonl` holds generated logs; the others are of whole stacks (`record_log.py`), with their definitions beside.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import compile_plan
from millrace_orchestrator.domain.state import SETTLED, ExecutionState
from millrace_shared.codec import decode_transition, encode
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import part_of
from millrace_shared.execution import projection
from millrace_shared.execution.changes import ChangeSet
from millrace_shared.execution.tables import TABLES
from millrace_shared.execution.view import ExecutionView
from millrace_shared.messages import LOG_VERSION, Event, ExecutionStarted, Transition

DATA = Path(__file__).parents[2] / "shared" / "tests" / "data"
RECORDINGS = sorted(DATA.glob("log-v*.jsonl"))
RUNS = [path for path in RECORDINGS if path.with_suffix(".definitions.json").exists()]
KINDS = {1: 13, 2: 22}
"""How many types of events each version had."""


def version_of(path: Path) -> int:
    return int(path.stem.removeprefix("log-v").partition("-")[0])


def executions(path: Path) -> dict[str, list[Transition]]:
    """The logs of a recording by execution."""
    logs: dict[str, list[Transition]] = defaultdict(list)
    for line in path.read_bytes().splitlines():
        transition = decode_transition(line)
        logs[transition.execution_id].append(transition)
    return logs


def replayed(path: Path) -> Iterator[tuple[list[Transition], ExecutionState]]:
    """Each log of a run, with the state that the orchestrator's fold gives."""
    definitions = msgspec.json.decode(path.with_suffix(".definitions.json").read_bytes())
    for log in executions(path).values():
        started = log[0].events[0]
        assert isinstance(started, ExecutionStarted)
        whole = WorkflowDefinition.model_validate(definitions[started.request.definition])
        yield log, fold(compile_plan(part_of(whole, started.request.part)), log)


def test_every_version_has_a_recording_and_this_one_of_a_whole_stack() -> None:
    assert sorted({version_of(path) for path in RECORDINGS}) == list(range(1, LOG_VERSION + 1)) == sorted(KINDS)
    assert LOG_VERSION in {version_of(path) for path in RUNS}
    assert KINDS[LOG_VERSION] == len(get_args(Event))


@pytest.mark.parametrize("version", KINDS)
def test_the_recordings_of_a_version_hold_every_event_that_it_had(version: int) -> None:
    paths = [path for path in RECORDINGS if version_of(path) == version]
    documents = [msgspec.json.decode(line) for path in paths for line in path.read_bytes().splitlines()]
    assert {document["v"] for document in documents} == {version}
    assert len({event["type"] for document in documents for event in document["events"]}) == KINDS[version]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_what_was_recorded_is_projected_wherever_batches_are_cut(path: Path) -> None:
    statuses = set()
    for log in executions(path).values():
        merged = ChangeSet()
        for sequence, transition in enumerate(log, 1):
            merged.merge(projection.changes(transition, sequence))
        row = TABLES["executions"].new_row((log[0].execution_id,))
        for change in merged.tables["executions"].values():
            change.apply(row)
        view = ExecutionView.fold(log)
        assert view.execution is not None
        assert {**row, "status": view.execution["status"]} == view.execution
        assert len(merged.tables["transitions"]) == view.last_version == len(log)
        statuses.add(view.execution["status"])
    assert statuses == {"completed", "failed", "cancelled", "timeout", "running"}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_orchestrator_goes_on_from_what_was_recorded(path: Path) -> None:
    """Its fold and the projection's agree on what has settled, and how."""
    for log, state in replayed(path):
        view = ExecutionView.fold(log)
        assert view.execution is not None
        assert (state.version, state.outcome if state.finished else None) == (len(log), view.execution["final_status"])
        settled = {(row["step"], row["item"]): row["status"] for row in view.steps if row["status"] in SETTLED}
        found = {}
        for step_id, step in state.steps.items():
            for item in (None, *step.items):
                if step.unit(item).status in SETTLED:
                    found[step_id, -1 if item is None else item] = step.unit(item).status
        assert found == settled


@pytest.mark.parametrize("path", [path for path in RUNS if version_of(path) == LOG_VERSION], ids=lambda path: path.stem)
def test_this_version_writes_what_was_recorded(path: Path) -> None:
    """When this fails, the shape of the log has moved: raise LOG_VERSION, add an upcaster and a recording."""
    for line in path.read_bytes().splitlines():
        assert encode(decode_transition(line)) == line
