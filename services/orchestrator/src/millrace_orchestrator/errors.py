"""What the orchestrator may meet outside of its core.

RetryableError
└── GateContended           a gate's document was replaced by others again and again

TerminalError
├── DefinitionMissing       no definition is stored under an execution's hash, or it is not one
├── ExecutionBroken         an execution that has started cannot be read, so far
└── EngineStopped           the engine does not tick any more
"""

from __future__ import annotations

from millrace_shared.errors import RetryableError, TerminalError


class GateContended(RetryableError):
    """Others have replaced a gate's document whenever this process was about to: it tries again in a moment."""


class DefinitionMissing(TerminalError):
    """The definition that an execution started with cannot be had, so the execution cannot go on."""


class ExecutionBroken(TerminalError):
    """An execution has a log, and this version cannot go on from it. It is left as it is, and looked at later."""


class EngineStopped(TerminalError):
    """The engine's task has ended, so nothing moves: restart the process."""
