"""Fairness between workspaces: whose start is next, and whose attempts go behind those of others.

A workspace that has a hundred thousand executions accepted and not begun must not hold up another's first step. So
what arrives is split: a message of an execution under way is decided in its turn of arrival, and starts stand in a
line for each workspace, served in rotation, a bounded number at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from millrace_shared.ids import partition_of

T = TypeVar("T")

CROWD = 64
"""With more attempts than this under way a workspace is crowded: its next ones go behind those of others. It is so
even while nobody else is active: work that is queued already cannot be moved when another comes."""
ENTRY_BYTES = 1_500
"""What an entry of a line costs beside its payload."""


@dataclass(slots=True)
class _Line(Generic[T]):
    """One workspace's line. What has begun and what has not take turns, so that neither holds the other up."""

    begun: OrderedDict[str, tuple[T, int]] = field(default_factory=OrderedDict)
    fresh: OrderedDict[str, tuple[T, int]] = field(default_factory=OrderedDict)
    size_bytes: int = 0
    begun_is_next: bool = True

    def pop(self, key: str) -> tuple[T, int] | None:
        entry = self.begun.pop(key, None) or self.fresh.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry[1]
        return entry

    def pop_first(self) -> tuple[str, T]:
        part = self.begun if self.begun and (self.begun_is_next or not self.fresh) else self.fresh
        self.begun_is_next = part is self.fresh
        key, (thing, size_bytes) = part.popitem(last=False)
        self.size_bytes -= size_bytes
        return key, thing

    def pop_last(self) -> tuple[str, T]:
        """What has not begun goes first: nothing is lost by its waiting longer."""
        key, (thing, size_bytes) = (self.fresh or self.begun).popitem()
        self.size_bytes -= size_bytes
        return key, thing

    def __len__(self) -> int:
        return len(self.begun) + len(self.fresh)


class Lines(Generic[T]):
    """A line for each workspace, within `size_bytes_max` together. Every operation takes constant time below that."""

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self.size_bytes = 0
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()
        self._workspaces: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._workspaces)

    def __contains__(self, key: str) -> bool:
        return key in self._workspaces

    def __iter__(self) -> Iterator[str]:
        return iter(self._workspaces)

    def length(self, workspace: str) -> int:
        """Return how many wait in the line of `workspace`."""
        line = self._lines.get(workspace)
        return 0 if line is None else len(line)

    def get(self, key: str) -> T | None:
        """Return what waits under `key`, and leave it where it is."""
        workspace = self._workspaces.get(key)
        if workspace is None:
            return None
        line = self._lines[workspace]
        return (line.begun.get(key) or line.fresh[key])[0]

    def put(self, workspace: str, key: str, thing: T, payload_bytes: int, *, begun: bool) -> list[T]:
        """Put `thing` at the end of a line; or in the place of what waits under `key` already.

        Returns:
            What has to leave for it: beyond the limit the longest line gives up its last.
        """
        size_bytes = payload_bytes + ENTRY_BYTES
        known = self._workspaces.get(key)
        if known is not None:
            line = self._lines[known]
            part = line.begun if key in line.begun else line.fresh
            change = size_bytes - part[key][1]
            part[key] = (thing, size_bytes)
        else:
            line = self._lines.setdefault(workspace, _Line())
            (line.begun if begun else line.fresh)[key] = (thing, size_bytes)
            self._workspaces[key] = workspace
            change = size_bytes
        line.size_bytes += change
        self.size_bytes += change
        return self._shorten()

    def pop(self, key: str) -> T | None:
        """Take what waits under `key` out of its turn."""
        workspace = self._workspaces.pop(key, None)
        if workspace is None:
            return None
        line = self._lines[workspace]
        entry = line.pop(key)
        assert entry is not None  # `_workspaces` says where it is
        self.size_bytes -= entry[1]
        if not line:
            del self._lines[workspace]
        return entry[0]

    def take(self, count: int) -> list[T]:
        """Take up to `count`, one of each workspace after the other."""
        taken: list[T] = []
        while self._lines and len(taken) < count:
            workspace, line = next(iter(self._lines.items()))
            before = line.size_bytes
            key, thing = line.pop_first()
            self._left(workspace, line, key, before)
            if line:
                self._lines.move_to_end(workspace)
            taken.append(thing)
        return taken

    def _shorten(self) -> list[T]:
        left: list[T] = []
        while self.size_bytes > self._size_bytes_max and len(self._workspaces) > 1:
            workspace, line = max(self._lines.items(), key=lambda one: one[1].size_bytes)
            before = line.size_bytes
            key, thing = line.pop_last()
            self._left(workspace, line, key, before)
            left.append(thing)
        return left

    def _left(self, workspace: str, line: _Line[T], key: str, before_bytes: int) -> None:
        del self._workspaces[key]
        self.size_bytes -= before_bytes - line.size_bytes
        if not line:
            del self._lines[workspace]


class Crowds:
    """Counts the attempts that are under way, by workspace: handed out by this orchestrator, and not settled."""

    def __init__(self) -> None:
        self._of_execution: dict[str, tuple[str, int]] = {}
        self._of_workspace: dict[str, int] = {}

    def is_crowded(self, workspace: str) -> bool:
        """Whether the next attempt of `workspace` belongs behind those of others."""
        return self._of_workspace.get(workspace, 0) > CROWD

    def note(self, execution_id: str, workspace: str, running: int) -> None:
        """An execution has `running` attempts under way now."""
        known = self._of_execution.get(execution_id)
        before = 0 if known is None else known[1]
        if running == before:
            return
        if running:
            self._of_execution[execution_id] = (workspace, running)
        elif known is not None:
            del self._of_execution[execution_id]
        count = self._of_workspace.get(workspace, 0) + running - before
        if count:
            self._of_workspace[workspace] = count
        else:
            self._of_workspace.pop(workspace, None)

    def lose(self, partition: int) -> None:
        """The executions of a partition are another orchestrator's now."""
        for execution_id in [one for one in self._of_execution if partition_of(one) == partition]:
            self.forget(execution_id)

    def forget(self, execution_id: str) -> None:
        """An execution has ended, or is another orchestrator's."""
        known = self._of_execution.get(execution_id)
        if known is not None:
            self.note(execution_id, known[0], 0)
