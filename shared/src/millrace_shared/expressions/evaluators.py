"""Evaluating CEL within bounds.

CEL cannot loop for ever, but it can grow: a macro in a macro multiplies, and doubling a list forty times
takes all memory there is. So an expression runs in this process only if it cannot grow, which means no
macros and small variables; the others run in a child process with a limit on memory and on time, which is
replaced when it dies.

Measured on two busy cores, for a condition on small variables: 20 us here, 90 us through the child.
"""

import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import msgspec

from millrace_shared.expressions.cel import evaluate_here
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.limits import (
    EVALUATION_TIMEOUT_S,
    LOCAL_WEIGHT_MAX,
    MACRO_LIST_ITEMS_MAX,
    RESULT_BYTES_MAX,
    VARIABLES_BYTES_MAX,
)
from millrace_shared.expressions.program import Program

FRAME = struct.Struct(">I")
"""Length of a message in bytes, before each message in either direction."""

START_TIMEOUT_S = 20.0
"""Time for the child to start; a busy machine takes its time to load Python."""

_FRAME_BYTES_MAX = 4 * RESULT_BYTES_MAX


class Request(msgspec.Struct, array_like=True):
    """What the child is asked."""

    program: Program
    variables: dict[str, Any]


class Reply(msgspec.Struct, array_like=True):
    """What the child answers: a value, or why there is none."""

    value: Any = None
    reason: str | None = None


class LocalEvaluator:
    """Evaluates in this process, without bounds: for tests and for tools that run their user's own files."""

    def evaluate(self, program: Program, variables: dict[str, Any]) -> Any:
        """Returns the value of a program; see `program.Evaluator`."""
        _weigh(program, variables)
        return evaluate_here(program, variables)


class BoundedEvaluator:
    """Evaluates small expressions in this process and the others in a child; threads may share it.

    Close it, or use it as a context manager, so that the child ends with it.
    """

    def __init__(self) -> None:
        self._child = ChildEvaluator()

    def evaluate(self, program: Program, variables: dict[str, Any]) -> Any:
        """Returns the value of a program; blocks for up to `EVALUATION_TIMEOUT_S`."""
        weight = _weigh(program, variables)
        if not program.has_macros and weight <= LOCAL_WEIGHT_MAX:
            return evaluate_here(program, variables)
        return self._child.evaluate(program, variables)

    def close(self) -> None:
        """Ends the child."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ChildEvaluator:
    """Evaluates everything in a child process, started at the first call and replaced when it dies."""

    def __init__(self, timeout_s: float = EVALUATION_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._decoder = msgspec.msgpack.Decoder(Reply)

    def evaluate(self, program: Program, variables: dict[str, Any]) -> Any:
        """Returns the value of a program; see `program.Evaluator`."""
        request = msgspec.msgpack.encode(Request(program, variables))
        if len(request) > VARIABLES_BYTES_MAX:
            raise ExpressionError(program.source, f"it reads more than {VARIABLES_BYTES_MAX} bytes of data")
        with self._lock:
            process = self._running()
            try:
                assert process.stdin is not None
                process.stdin.write(FRAME.pack(len(request)) + request)
                process.stdin.flush()
                reply = self._decoder.decode(_read_frame(process, time.monotonic() + self._timeout_s))
            except TimeoutError:
                self._end()
                raise ExpressionError(program.source, f"it takes longer than {self._timeout_s:g} s") from None
            except (OSError, EOFError, msgspec.DecodeError):
                self._end()
                raise ExpressionError(program.source, "it needs more memory than an expression may use") from None
            except BaseException:
                self._end()  # an interrupt in between would leave an answer that belongs to nobody
                raise
        if reply.reason is not None:
            raise ExpressionError(program.source, reply.reason)
        return reply.value

    def close(self) -> None:
        """Ends the child; a later call starts another one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        # The child gets no secrets: none of the service's environment but what Python needs to start.
        kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "VIRTUAL_ENV")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        command = [sys.executable, "-m", "millrace_shared.expressions.child"]
        process = subprocess.Popen(  # noqa: S603  # our own module, with this very interpreter
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self._process = process
        try:
            _read_frame(process, time.monotonic() + START_TIMEOUT_S)
        except (TimeoutError, OSError, EOFError) as error:
            self._end()
            raise ExpressionError("", f"the process for expressions does not start: {error}") from error
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                continue  # bytes that nobody will read any more
        process.wait()


def _read_frame(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """Reads one message, until a deadline in monotonic seconds.

    Raises:
        TimeoutError: The deadline has passed.
        EOFError: The child is gone, or does not keep to the protocol.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    received = bytearray()
    length: int | None = None
    while length is None or len(received) < FRAME.size + length:
        if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            raise EOFError
        received += piece
        if length is None and len(received) >= FRAME.size:
            (length,) = FRAME.unpack_from(received)
            if length > _FRAME_BYTES_MAX:
                raise EOFError
    return bytes(received[FRAME.size :])


def _weigh(program: Program, variables: dict[str, Any]) -> int:
    """Returns a measure of how much data there is, counting no further than matters.

    Raises:
        ExpressionError: A list is too long to loop over.
    """
    weight = 0
    stack: list[Any] = [variables]
    while stack and (program.has_macros or weight <= LOCAL_WEIGHT_MAX):
        value = stack.pop()
        weight += 1
        if isinstance(value, str):
            weight += len(value)
        elif isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, list):
            if program.has_macros and len(value) > MACRO_LIST_ITEMS_MAX:
                reason = (
                    f"it reads a list of {len(value)} items, and macros are limited to "
                    f"{MACRO_LIST_ITEMS_MAX}; use a python step for longer lists"
                )
                raise ExpressionError(program.source, reason)
            stack.extend(value)
    return weight
