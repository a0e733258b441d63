"""The process in which expressions with macros run: `python -m millrace_shared.expressions.child`.

Reads requests from standard input and writes replies to standard output, each with its length in front. It
has a limit on memory, and an alarm that ends it when one evaluation takes too long, even if its parent is
gone by then.
"""

import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from millrace_shared.expressions.cel import compile_program, evaluate_here
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.evaluators import FRAME, Reply, Request
from millrace_shared.expressions.limits import EVALUATION_MEMORY_BYTES_MAX, EVALUATION_TIMEOUT_S

ALARM_S = EVALUATION_TIMEOUT_S * 2
"""The parent gives up first; this is for a child whose parent was killed."""

READY = b"ready"


def main() -> None:
    """Answers requests until standard input ends."""
    evaluate_here(compile_program("1 + 1"), {})  # loads CEL before its memory is counted
    _limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides when to end
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _write(sink, READY)
    decoder = msgspec.msgpack.Decoder(Request)
    while header := source.read(FRAME.size):
        (length,) = FRAME.unpack(header)
        request = decoder.decode(source.read(length))
        signal.setitimer(signal.ITIMER_REAL, ALARM_S)
        reply = msgspec.msgpack.encode(_answer(request))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(sink, reply)


def _answer(request: Request) -> Reply:
    try:
        return Reply(evaluate_here(request.program, request.variables))
    except ExpressionError as error:
        return Reply(None, error.reason)
    except MemoryError:
        return Reply(None, "it needs more memory than an expression may use")


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return  # macOS has neither; there, CEL's own iteration budget and the deadline must do
    pages = int(statm.read_text(encoding="ascii").split()[0])
    limit_bytes = pages * resource.getpagesize() + EVALUATION_MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _write(sink: BinaryIO, message: bytes) -> None:
    sink.write(FRAME.pack(len(message)) + message)
    sink.flush()


if __name__ == "__main__":
    main()
