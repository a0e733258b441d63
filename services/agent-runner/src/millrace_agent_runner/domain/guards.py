"""Guards of an agent, as a runner reads them, and the checks that need no model."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from millrace_agent_runner.domain.attempt import NULL, present
from millrace_agent_runner.domain.schemas import check_output
from millrace_agent_runner.errors import TerminalFailure
from millrace_shared.expressions.regex import compile_regex

PASSED, FAILED = 1.0, 0.0
TEXT_CHARS_MAX = 1_000_000
"""A longer text passes no guard: it would be sent to judges whole."""


class Judge(msgspec.Struct, frozen=True):
    """A model that is asked whether something holds for a text."""

    question: str
    model: str | None = None
    min_score: float = 0.5


class Guard(msgspec.Struct, frozen=True):
    """One check of the definition's `Guard`."""

    name: str | None = None
    max_length: int | None = None
    regex: str | None = None
    expect: Literal["absent", "present"] = "absent"
    json_schema: msgspec.Raw = NULL
    judge: Judge | None = None
    action: Literal["block", "retry", "flag"] = "block"

    @property
    def label(self) -> str:
        """What its score is called."""
        if self.name is not None:
            return self.name
        kinds = {"max_length": self.max_length, "regex": self.regex, "judge": self.judge}
        return next((kind for kind, given in kinds.items() if given is not None), "json_schema")


class Guards(msgspec.Struct, frozen=True):
    """All of an agent."""

    input: tuple[Guard, ...] = ()
    output: tuple[Guard, ...] = ()

    @property
    def hold_back(self) -> bool:
        """Whether an answer must not be shown before it is checked: not all that comes may be kept."""
        return any(guard.action != "flag" for guard in self.output)


class Verdict(NamedTuple):
    """What a check came to: a score from 0 to 1, and what is wrong; None when it passes."""

    score: float
    complaint: str | None


_PASSES = Verdict(PASSED, None)


def checked(guard: Guard, value: Any) -> Verdict | None:
    """Check a text, or a structured value, by a guard. None: a model has to judge."""
    text = text_of(value)
    if len(text) > TEXT_CHARS_MAX:
        return Verdict(FAILED, f"it has {len(text)} characters, more than can be checked ({TEXT_CHARS_MAX})")
    if guard.max_length is not None:
        return _by_length(text, guard.max_length)
    if guard.regex is not None:
        return _by_regex(text, guard.regex, guard.expect)
    schema = present(guard.json_schema)
    return None if schema is None else _by_schema(value, schema)


def text_of(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _by_length(text: str, chars_max: int) -> Verdict:
    if len(text) <= chars_max:
        return _PASSES
    return Verdict(FAILED, f"it has {len(text)} characters, and {chars_max} are allowed")


def _by_regex(text: str, pattern: str, expect: str) -> Verdict:
    if compile_regex(pattern)(text) == (expect == "present"):
        return _PASSES
    found = "nothing in it matches" if expect == "present" else "something in it matches"
    return Verdict(FAILED, f"{found} the regular expression {pattern}")


def _by_schema(value: Any, schema: bytes) -> Verdict:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError):
            return Verdict(FAILED, "it is not JSON")
    try:
        check_output(schema, value)
    except TerminalFailure as failure:
        return Verdict(FAILED, "; ".join(failure.detail.get("mistakes") or [str(failure)]))
    return _PASSES
