"""Services as others see them: real processes, and what they tell operators."""

import asyncio
import os
import signal
import sys
from typing import Self

from millrace_shared.testing.waiting import DEADLINE_S


class ServiceProcess:
    """A service as a real process, whose log a test reads. The test ends it: see `kill`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    async def start(cls, module: str, **environment: str) -> Self:
        """Start `python -m module` with these environment variables besides the test's own."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE
            )
        )

    async def line(self, words: str) -> str:
        """Wait until it has said `words`; return the line.

        Raises:
            AssertionError: It ended without.
            TimeoutError: It did not say so in time.
        """
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            while raw := await self.process.stderr.readline():
                self.lines.append(raw.decode())
                if words in self.lines[-1]:
                    return self.lines[-1]
        raise AssertionError(f"the service ended without saying {words!r}: {self.lines}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def exit_status(self) -> int:
        """Wait for its end, reading the rest of its log; return the exit status."""
        async with asyncio.timeout(DEADLINE_S):
            _, rest = await self.process.communicate()
        self.lines.append(rest.decode())
        return int(self.process.returncode or 0)

    async def kill(self) -> None:
        """End it, if it still runs, and wait for that."""
        if self.process.returncode is None:
            self.send(signal.SIGKILL)
            await self.exit_status()


async def http_get(port: int, path: str) -> tuple[int, str]:
    """Return the status and the body of a GET from the operators' port of a service on this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return int(head.split(" ")[1]), body
