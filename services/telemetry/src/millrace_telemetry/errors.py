"""What can go wrong in the projection.

RetryableError
├── OffsetMoved         another telemetry process wrote first: read the offset again
└── WriteFailed         Postgres could not write the batch for now
TerminalError
├── ValueRefused        Postgres will never take this batch: one of its values is impossible
└── LogDiverged         the stream is not the one that was projected
"""

from __future__ import annotations

from millrace_shared.errors import RetryableError, TerminalError


class OffsetMoved(RetryableError):
    """Another telemetry process has written since this one read the offset. Nothing of this batch was written."""


class WriteFailed(RetryableError):
    """Postgres could not write the batch, and nothing of it is left. The same batch may be written later."""


class ValueRefused(TerminalError):
    """Postgres refuses a value of the batch, and nothing of it is left. The message must be found and buried."""


class LogDiverged(TerminalError):
    """The stream ends before the stored offset, or holds another message there: the tables show another log."""
