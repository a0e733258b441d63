"""How a service process runs: logging, the event loop, signals, and one way to start and stop.

A service is an async context manager that is ready when entered and drained when left. `run` enters it, waits for
SIGTERM or SIGINT, and leaves it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from contextlib import AbstractAsyncContextManager

import msgspec
import uvloop

from millrace_shared.errors import MillraceError
from millrace_shared.settings import Settings

log = logging.getLogger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def configure_logging(service: str, settings: Settings) -> None:
    """Send log lines to standard error, in the configured format."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter(service))
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {service}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "uvicorn.access", "nats.aio.client"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def instance_name(settings: Settings) -> str:
    """Name this process for logs and results."""
    return settings.instance or f"{socket.gethostname()}-{os.getpid()}"


def run(name: str, settings: Settings, service: AbstractAsyncContextManager[object]) -> int:
    """Run a service until it is told to stop. Returns the process's exit status.

    A `MillraceError` while starting is one line, not a stack: it says what to do.
    """
    configure_logging(name, settings)
    # What was imported stays, and a message leaves no cycles: looking for garbage often would cost a tenth of the time.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        uvloop.run(_serve(name, service))
    except MillraceError as error:
        log.error("%s cannot start: %s", name, error)  # noqa: TRY400  the message is made for people
        return 1
    return 0


async def _serve(name: str, service: AbstractAsyncContextManager[object]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with service:
        log.info("%s is ready", name)
        await stop.wait()
        log.info("%s is stopping", name)
