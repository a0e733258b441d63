"""MCP servers that the runner starts: programs that read and write one JSON-RPC message a line.

A program starts when it is first needed, serves all attempts of the runner, and starts anew after it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from typing import Any

import msgspec

from millrace_agent_runner.domain.mcp_servers import McpServer
from millrace_agent_runner.errors import StepFailure
from millrace_agent_runner.executors.agent.tools.mcp_session import INITIALIZE, broken, result_of

LINE_BYTES_MAX = 8 * 1024 * 1024
CALLS_MAX = 64
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 2.0
_INHERITED = ("PATH", "HOME", "LANG")
_NO_SUCH_METHOD = -32601


class StdioServer:
    """A program, running or not.

    Args:
        name: the operator's name for it.
        server: how it is started.
    """

    def __init__(self, name: str, server: McpServer) -> None:
        self._name = name
        self._server = server
        self._running: _Program | None = None
        self._starting = asyncio.Lock()
        self._calls = asyncio.Semaphore(CALLS_MAX)

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the program, which is started when it does not run.

        Raises:
            StepFailure: it refuses, cannot be started, or ended meanwhile.
        """
        async with self._calls:
            return await (await self._program()).request(method, params)

    async def close(self) -> None:
        """End the program."""
        if self._running is not None:
            await self._running.end()

    async def _program(self) -> _Program:
        async with self._starting:
            if self._running is None or self._running.has_ended:
                if self._running is not None:
                    await self._running.end()
                self._running = None
                self._running = await self._start()
            return self._running

    async def _start(self) -> _Program:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                self._server.command,
                *self._server.args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**inherited, **self._server.env},  # and none of the runner's keys
                cwd=self._server.cwd,
                limit=LINE_BYTES_MAX,
                start_new_session=True,  # so that what it starts ends with it
            )
        except OSError as error:
            raise broken(self._name, f"cannot be started: {error.strerror}; the operator must correct it") from error
        program = _Program(self._name, process)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await program.request("initialize", INITIALIZE)
                await program.send({"method": "notifications/initialized"})
        except TimeoutError as error:
            await program.end()
            raise broken(self._name, f"was not ready within {START_TIMEOUT_S:g} s") from error
        except BaseException:
            await program.end()
            raise
        return program


class _Program:
    """One run of a program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._why = "has ended"
        self._reading = asyncio.create_task(self._read(), name=f"mcp {name}")

    @property
    def has_ended(self) -> bool:
        return self._reading.done() or self._process.returncode is not None

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            await self.send({"id": number, "method": method, "params": params})
            return result_of(self._name, await reply)
        except asyncio.CancelledError:
            self._write({"method": "notifications/cancelled", "params": {"requestId": number}})
            raise
        finally:
            del self._waiting[number]

    async def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        if self.has_ended:
            raise broken(self._name, self._why)
        self._write(message)
        try:
            await self._process.stdin.drain()
        except OSError as error:
            raise broken(self._name, self._why) from error

    async def end(self) -> None:
        """End the program and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._process.wait()
        self._reading.cancel()
        await asyncio.wait([self._reading])

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._received(line)
        except ValueError:
            self._why = f"sent a line of more than {LINE_BYTES_MAX} bytes, and was ended"
        except OSError:
            pass  # its pipe is gone, and so is it
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            failure: StepFailure = broken(self._name, self._why)
            for reply in self._waiting.values():
                if not reply.done():
                    reply.set_exception(failure)

    def _received(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return  # programs print things
        if not isinstance(message, dict):
            return
        number = message.get("id")
        if "method" in message:
            if number is not None:
                self._refuse(number, message["method"])
            return
        reply = self._waiting.get(number) if isinstance(number, int) else None
        if reply is not None and not reply.done():
            reply.set_result(message)

    def _refuse(self, number: Any, method: Any) -> None:
        if method == "ping":
            self._write({"id": number, "result": {}})
        else:
            self._write({"id": number, "error": {"code": _NO_SUCH_METHOD, "message": "this client offers nothing"}})
