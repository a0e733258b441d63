"""One whole stack for the tests that look at the product from outside."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack


@pytest.fixture(scope="session")
def running_stack(server_directory: Callable[[], Path]) -> Iterator[BackgroundStack]:
    """NATS, PostgreSQL and the four services, shared: tests keep apart by the names of their workflows."""
    stack = EmbeddedStack(server_directory(), durability="interval")
    with stack.in_background() as running:
        yield running


@pytest.fixture(scope="session")
def stack_environment(running_stack: BackgroundStack) -> dict[str, str]:
    """The environment of a user who started that stack: nothing but the data directory says where it is."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return {**mine, "MILLRACE_DATA_DIR": str(running_stack.stack.directory.root), "NO_COLOR": "1"}
