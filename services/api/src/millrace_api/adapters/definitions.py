"""Definitions by content hash, as executions refer to them. They never change, so what was read once stays true."""

from __future__ import annotations

from collections import OrderedDict

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import part_of

ENTRIES_MAX = 500


class Definitions:
    """Reads definitions from the bus, where they are kept for the orchestrator, and remembers them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: OrderedDict[tuple[str, str], WorkflowDefinition] = OrderedDict()

    async def get(self, content_hash: str, part: str = "") -> WorkflowDefinition | None:
        """Return a definition, or that of a group in it, or None when the bus has none of this hash.

        Args:
            content_hash: of the whole definition.
            part: the path of a group, as `StartRequest.part`; empty for the whole.

        Raises:
            BusUnavailable: the bus does not answer.
            PartUnknown: the definition has no such group.
        """
        known = self._known.get((content_hash, part))
        if known is not None:
            self._known.move_to_end((content_hash, part))
            return known
        whole = await self._read(content_hash) if not part else await self.get(content_hash)
        if whole is None:
            return None
        definition = part_of(whole, part)
        self._known[content_hash, part] = definition
        if len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)
        return definition

    async def _read(self, content_hash: str) -> WorkflowDefinition | None:
        stored = await read_last(self._connection, "DEFINITIONS", subjects.definition(content_hash))
        return None if stored is None else WorkflowDefinition.model_validate_json(stored.payload)
