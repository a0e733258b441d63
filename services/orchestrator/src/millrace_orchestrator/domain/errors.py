"""What the pure core may raise.

TerminalError
├── ImpossibleTransition    an event that its tables do not know: a bug, or a log that is not one
└── NotStarted              a log whose first event is not `execution.started`
"""

from __future__ import annotations

from millrace_shared.errors import TerminalError


class ImpossibleTransition(TerminalError):
    """An event does not apply to the state it meets. The transition tables are complete, so this is a bug."""


class NotStarted(TerminalError):
    """A log does not begin with `execution.started`."""
