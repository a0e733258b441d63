"""The embedded stack: a NATS server, PostgreSQL and the four services as supervised child processes.

async with EmbeddedStack(Path(".millrace")) as stack:
    print(stack.api_url, stack.api_key)

with EmbeddedStack(tmp_path, services={}).in_background() as stack:   # no event loop needed
    connect(stack.nats_url, stack.database_url)
"""

from millrace.embedded.background import BackgroundStack
from millrace.embedded.errors import (
    BinaryUnavailableError,
    DataDirectoryError,
    EmbeddedError,
    PortTakenError,
    ProcessStartError,
    StackLockedError,
    UnknownProcessError,
)
from millrace.embedded.events import EventKind, ProcessEvent
from millrace.embedded.stack import EmbeddedStack

__all__ = [
    "BackgroundStack",
    "BinaryUnavailableError",
    "DataDirectoryError",
    "EmbeddedError",
    "EmbeddedStack",
    "EventKind",
    "PortTakenError",
    "ProcessEvent",
    "ProcessStartError",
    "StackLockedError",
    "UnknownProcessError",
]
