"""One whole stack for the tests that look at the product from outside."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack

# A step that a test leaves asleep need not be waited for when its stack stops.
IMPATIENT = {"MILLRACE_RUNNER_GRACE_S": "1"}


@pytest.fixture(scope="session")
def running_stack(lasting_directory: Callable[[], Path]) -> Iterator[BackgroundStack]:
    """NATS, PostgreSQL and the four services, shared: tests keep apart by the names of their workflows."""
    stack = EmbeddedStack(lasting_directory(), durability="interval", environment=IMPATIENT)
    with stack.in_background() as running:
        yield running


@pytest.fixture(scope="session")
def user_of() -> Callable[[BackgroundStack], dict[str, str]]:
    """Gives the environment of a user who started a stack: nothing but the data directory says where it is."""

    def environment(running: BackgroundStack) -> dict[str, str]:
        # The processes that run tests side by side say how wide their terminal is, which they do not have.
        strangers = ("MILLRACE_", "COLUMNS", "LINES")
        mine = {name: value for name, value in os.environ.items() if not name.startswith(strangers)}
        return {**mine, "MILLRACE_DATA_DIR": str(running.stack.directory.root), "NO_COLOR": "1"}

    return environment


@pytest.fixture(scope="session")
def stack_environment(
    running_stack: BackgroundStack, user_of: Callable[[BackgroundStack], dict[str, str]]
) -> dict[str, str]:
    """The environment of a user who started the shared stack."""
    return user_of(running_stack)
