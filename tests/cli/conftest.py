from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(server_directory: Callable[[], Path]) -> Path:
    """A directory where Postgres can run as root's other account, see `server_directory`."""
    return server_directory()
