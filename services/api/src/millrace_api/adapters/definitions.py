"""Definitions by content hash, as executions refer to them. They never change, so what was read once stays true."""

from __future__ import annotations

from collections import OrderedDict

from pydantic import ValidationError

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import part_of
from millrace_shared.errors import UpgradeNeeded

ENTRIES_MAX = 500


async def keep_definition(publisher: Publisher, content_hash: str, canonical: bytes) -> None:
    """Put a definition on the bus, for as long as there is one, before anything that refers to it.

    Raises:
        BusUnavailable: the bus did not take it.
    """
    message = Outgoing(subjects.definition(content_hash), canonical, expected_last_sequence=0)
    try:
        await publisher.publish(message)
    except WrongLastSequence:  # it is there: the subject is its content hash
        return


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
            UpgradeNeeded: a later version saved the definition.
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
        return None if stored is None else stored_definition(stored.payload, content_hash)


def stored_definition(document: bytes | str, content_hash: str) -> WorkflowDefinition:
    """Return the definition that a stored document is.

    Raises:
        UpgradeNeeded: it has what this version does not know. It was valid when it was saved, so a later one saved it.
    """
    try:
        return WorkflowDefinition.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UpgradeNeeded(
            f"definition {content_hash} was saved by a later version ({place}: {first['msg']}): upgrade this service"
        ) from error
