"""The journal of a conversation: what a model answered and what its tools gave, so that nothing is paid for twice.

A conversation is one iteration of an agent step, or of an item of one; all attempts of it share one journal. Whoever
goes on with it runs the agent from its beginning again. Each request that finds its answer here makes no call:

| entry | says |
|---|---|
| `responded` | the model answered the request number `turn` (from 0), whose fingerprint is given |
| `tool_begun` | a tool that must not be repeated is about to be called, after that answer |
| `tool_ended` | it gave this, or failed like this |
| `taken_up` | another attempt, or another runner, goes on: whatever an earlier one still wants to add is refused |
| `abandoned` | the conversation led nowhere, and the next attempt begins a new one |

A request whose fingerprint is another than the journal's means that the conversation has changed: what was recorded
from there on is not used, and the new answer takes its place. A wrong answer is never given. What tools have done that
must not be repeated stays done, though: `Conversation.lost` names them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from millrace_agent_runner.domain.attempt import NULL
from millrace_shared.errors import MessageInvalid
from millrace_shared.messages import RunStep, Usage
from millrace_shared.values import BlobRef

log = logging.getLogger(__name__)

ENTRIES_MAX = 20_000
"""A conversation with more than this many entries is not continued."""


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON document, in the entry or by claim check."""

    document: msgspec.Raw = NULL
    blob: BlobRef | None = None


class Responded(msgspec.Struct, frozen=True, omit_defaults=True, tag="responded"):
    """A model's answer. `usage` is what was used since the entry before it, and `reported` counts the calls' facts."""

    turn: int
    fingerprint: str
    body: Body
    attempt: int
    at: float
    runner: str = ""
    usage: Usage | None = None
    reported: int = 0


class ToolBegun(msgspec.Struct, frozen=True, omit_defaults=True, tag="tool_begun"):
    """A tool is about to be called. `key` tells the calls of one turn apart."""

    turn: int
    key: str
    tool: str
    attempt: int
    at: float
    runner: str = ""


class ToolEnded(msgspec.Struct, frozen=True, omit_defaults=True, tag="tool_ended"):
    """A tool gave a result (`returned`), or told the model what is wrong (`failed`, `retry`).

    `raised` is a failure of the attempt: the tool did nothing that must not be repeated.
    """

    turn: int
    key: str
    tool: str
    outcome: Literal["returned", "failed", "retry", "raised"]
    body: Body
    attempt: int
    at: float
    runner: str = ""


class TakenUp(msgspec.Struct, frozen=True, omit_defaults=True, tag="taken_up"):
    """Another attempt or runner goes on."""

    attempt: int
    at: float
    runner: str = ""


class Abandoned(msgspec.Struct, frozen=True, omit_defaults=True, tag="abandoned"):
    """The conversation led nowhere, for `reason`."""

    reason: str
    attempt: int
    at: float
    runner: str = ""


Entry = Responded | ToolBegun | ToolEnded | TakenUp | Abandoned

_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def decode_entry(payload: bytes) -> Entry:
    """Decode an entry. Raises `msgspec.DecodeError`."""
    return _decoder.decode(payload)


class Journal(Protocol):
    """The journal of one conversation, with the right to add to it. `adapters.journal.StoredJournal` is one."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What was recorded before this attempt."""

    @property
    def runner(self) -> str:
        """The name of this process."""

    async def append(self, entry: Entry) -> None:
        """Record something; it is durable on return.

        Raises:
            TakenOver: somebody else has recorded something since.
        """

    async def pack(self, document: bytes) -> Body:
        """Return a JSON document as the body of an entry."""

    async def unpack(self, body: Body) -> bytes:
        """Return the JSON document of an entry."""


class Journals(Protocol):
    """Where journals are kept."""

    async def open(self, step: RunStep, *, resumes: bool) -> Journal:
        """Open the journal of an attempt's conversation; without `resumes` it is taken to be empty, and not read."""


@dataclass(slots=True)
class Turn:
    """A request and its answer, and the tools that were called upon it, by key."""

    answer: Responded
    begun: set[str] = field(default_factory=set)
    effects: dict[str, str] = field(default_factory=dict)
    """The tools that must not be repeated, by the keys of their calls."""
    ended: dict[str, ToolEnded] = field(default_factory=dict)


class Conversation:
    """Where a run is in its conversation, and what is known of what comes next. Pure: whoever uses it does the I/O.

    Args:
        entries: the journal, in order.
        name: for the log.

    Attributes:
        answered: answers that were ever recorded, those that are no longer used included.
        reported: calls that were reported, up to the last answer.
        lost: tools that must not be repeated, and were called in turns that are no longer used. Whoever calls one is
            told once; to call it after that is to mean it.

    Raises:
        MessageInvalid: the entries are not a journal.
    """

    def __init__(self, entries: Iterable[Entry], name: str) -> None:
        self._name = name
        self._turns: list[Turn] = []
        self._position = 0
        self.answered = 0
        self.reported = 0
        self.lost: set[str] = set()
        for entry in entries:
            self._apply(entry)

    @property
    def turn(self) -> int:
        """The number of the next request, from 0."""
        return self._position

    @property
    def is_replaying(self) -> bool:
        """Whether answers are left that may be given again."""
        return self._position < len(self._turns)

    def usage_of(self, attempt: int) -> list[Usage]:
        """Return what was used for the recorded answers of an attempt, which has told nobody yet."""
        return [turn.answer.usage for turn in self._turns if turn.answer.attempt == attempt and turn.answer.usage]

    def replay(self, fingerprint: str) -> Responded | None:
        """Return the recorded answer to the next request, and go on behind it; None when it has to be asked."""
        if not self.is_replaying:
            return None
        answer = self._turns[self._position].answer
        if answer.fingerprint != fingerprint:
            log.warning(
                "%s: request %d is another than the journal has; going on from there without it",
                self._name,
                self._position + 1,
            )
            self._drop(self._position)
            return None
        self._position += 1
        return answer

    def tool(self, key: str) -> ToolEnded | Literal["unknown"] | None:
        """Return what a tool call of the current turn gave, `unknown` if it was begun and that is all, or None."""
        if not self._position:
            return None
        turn = self._turns[self._position - 1]
        ended = turn.ended.get(key)
        if ended is not None:
            return None if ended.outcome == "raised" else ended
        return "unknown" if key in turn.begun else None

    def record(self, entry: Entry) -> None:
        """Take in what was recorded now."""
        self._apply(entry)
        if isinstance(entry, Responded):
            self._position = entry.turn + 1

    def _apply(self, entry: Entry) -> None:
        match entry:
            case Responded():
                if entry.turn > len(self._turns):
                    raise MessageInvalid(f"the journal of {self._name} has no request {entry.turn}")
                self._drop(entry.turn)
                self._turns.append(Turn(entry))
                self.answered += 1
                self.reported = max(self.reported, entry.reported)
            case ToolBegun() | ToolEnded():
                if not 0 <= entry.turn < len(self._turns):
                    raise MessageInvalid(f"the journal of {self._name} has a tool call out of turn {entry.turn}")
                self._drop(entry.turn + 1)  # what came after the turn did not know of this call
                self._apply_call(self._turns[entry.turn], entry)
            case Abandoned():
                self._drop(0)
                self._position = 0
            case TakenUp():
                pass

    def _apply_call(self, turn: Turn, entry: ToolBegun | ToolEnded) -> None:
        if isinstance(entry, ToolBegun):
            turn.begun.add(entry.key)
            turn.effects[entry.key] = entry.tool
            turn.ended.pop(entry.key, None)
            return
        if entry.key not in turn.begun:
            self.lost.discard(entry.tool)  # it was not called: the model was told
        elif entry.outcome == "raised":
            turn.effects.pop(entry.key, None)
        turn.begun.discard(entry.key)
        turn.ended[entry.key] = entry

    def _drop(self, start: int) -> None:
        """Use the turns from `start` on no longer."""
        for turn in self._turns[start:]:
            self.lost.update(turn.effects.values())
        del self._turns[start:]
