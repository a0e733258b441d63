"""Definitions by content hash, as executions refer to them. They never change, so what was read once stays true."""

from __future__ import annotations

from collections import OrderedDict

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last
from millrace_shared.definition.model import WorkflowDefinition

ENTRIES_MAX = 500


class Definitions:
    """Reads definitions from the bus, where they are kept for the orchestrator, and remembers them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: OrderedDict[str, WorkflowDefinition] = OrderedDict()

    async def get(self, content_hash: str) -> WorkflowDefinition | None:
        """Return a definition, or None when the bus has none of this hash.

        Raises:
            BusUnavailable: the bus does not answer.
        """
        known = self._known.get(content_hash)
        if known is not None:
            self._known.move_to_end(content_hash)
            return known
        stored = await read_last(self._connection, "DEFINITIONS", subjects.definition(content_hash))
        if stored is None:
            return None
        definition = WorkflowDefinition.model_validate_json(stored.payload)
        self._known[content_hash] = definition
        if len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)
        return definition
