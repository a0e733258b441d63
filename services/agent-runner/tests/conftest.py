import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from millrace_agent_runner.domain.attempt import Attempt, Spec, spec_of
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
