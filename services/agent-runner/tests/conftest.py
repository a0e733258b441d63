import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from millrace_agent_runner.domain.attempt import Attempt, Spec, spec_of
from millrace_agent_runner.domain.journal import Body, Entry
from millrace_shared.ids import new_id
from millrace_shared.messages import RunStep, WorkKind
from millrace_shared.testing.providers import FakeProviders
from millrace_shared.values import Payload


def run_step(kind: WorkKind = "python", spec: Any = None, data: Any = None, **fields: Any) -> RunStep:
    """A work message with everything that a test does not care about filled in."""
    known: dict[str, Any] = {
        "execution_id": new_id(),
        "workspace": "default",
        "workflow_id": "w-1",
        "workflow_name": "test",
        "workflow_version": 1,
        "step": "process",
        "attempt": 1,
        "kind": kind,
        "timeout_s": 300.0,
        "deadline": time.time() + 600,
        "spec": msgspec.Raw(msgspec.json.encode(spec or {})),
        "input": Payload(data=data),
    }
    return RunStep(**{**known, **fields})


def attempt_of(step: RunStep, secrets: tuple[str, ...] = ()) -> Attempt:
    """An attempt as an executor gets it."""
    spec = spec_of(step) if bytes(step.spec) != b"{}" else Spec()
    return Attempt(step, spec, step.input.data, secrets, time.time() + step.timeout_s)


class MemoryJournal:
    """A journal that is not stored; `entries` is what an attempt found."""

    def __init__(self, kept: list[Entry]) -> None:
        self.kept = kept
        self.entries = tuple(kept)
        self.runner = "runner-1"

    async def append(self, entry: Entry) -> None:
        self.kept.append(entry)

    async def pack(self, document: bytes) -> Body:
        return Body(document=msgspec.Raw(document))

    async def unpack(self, body: Body) -> bytes:
        return bytes(body.document)


class MemoryJournals:
    """Journals by execution, step, item and iteration."""

    def __init__(self) -> None:
        self.kept: dict[Any, list[Entry]] = {}

    async def open(self, step: RunStep, *, resumes: bool) -> MemoryJournal:
        kept = self.kept.setdefault((step.execution_id, step.step, step.item, step.iteration), [])
        assert resumes or not kept, "a conversation was begun before, and nobody looked"
        return MemoryJournal(kept)


@pytest.fixture
def journals() -> MemoryJournals:
    return MemoryJournals()


@pytest.fixture
def step_factory():
    return run_step


@pytest.fixture
def attempt_factory():
    return attempt_of


@pytest.fixture
def providers() -> Iterator[FakeProviders]:
    """A server that speaks OpenAI's and Anthropic's protocols, and does what its `script` says."""
    with FakeProviders() as providers:
        yield providers
