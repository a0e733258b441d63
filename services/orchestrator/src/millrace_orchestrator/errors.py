"""What the orchestrator may meet outside of its core.

TerminalError
├── DefinitionMissing       no definition is stored under an execution's hash, or it is not one
└── EngineStopped           the engine does not tick any more
"""

from __future__ import annotations

from millrace_shared.errors import TerminalError


class DefinitionMissing(TerminalError):
    """The definition that an execution started with cannot be had, so the execution cannot go on."""


class EngineStopped(TerminalError):
    """The engine's task has ended, so nothing moves: restart the process."""
