"""From what an author sent to a draft that can be saved, or every mistake in it: workflows, and agents.

Validation of a large definition takes a second or two of processor time, so it happens in a thread: the process goes
on accepting executions meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from millrace_api.adapters.places import Places
from millrace_api.domain.agents import AgentDraft
from millrace_api.domain.workflows import Draft
from millrace_api.errors import Mistake, Refused
from millrace_shared.definition.canonical import canonical_agent, canonical_json, content_hash
from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.saved_agents import validate_agent
from millrace_shared.definition.validation import validate

DRAFTS_AT_ONCE_MAX = 2
"""More validations at once would only slow one another down."""
DRAFTS_WAITING_MAX = 100
"""Definitions, of up to 1 MiB each, that are held for validation."""


class Drafting:
    """Validates definitions."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(DRAFTS_AT_ONCE_MAX)
        self._places = Places(DRAFTS_WAITING_MAX, "too_many_drafts", "definitions wait to be checked")

    async def draft(self, source: bytes) -> Draft:
        """Return the draft of a definition in YAML or JSON.

        Raises:
            Refused: `workflow_invalid`, with every mistake.
            Unavailable: too many wait already.
        """
        with self._places.take():
            async with self._slots:
                return await asyncio.to_thread(_draft, source)

    async def agent(self, source: bytes) -> AgentDraft:
        """Return the draft of an agent in YAML or JSON.

        Raises:
            Refused: `agent_invalid`, with every mistake.
            Unavailable: too many wait already.
        """
        with self._places.take():
            async with self._slots:
                return await asyncio.to_thread(_agent_draft, source)


def _draft(source: bytes) -> Draft:
    try:
        validated = validate(source)
    except DefinitionInvalid as error:
        raise _refusal("workflow_invalid", error) from None
    canonical = canonical_json(validated.definition)
    return Draft(
        definition=validated.definition,
        canonical=canonical,
        content_hash=content_hash(canonical),
        source=source.decode(),
        source_format=_format_of(source),
        warnings=tuple(mistakes(validated.warnings)),
    )


def _agent_draft(source: bytes) -> AgentDraft:
    try:
        validated = validate_agent(source)
    except DefinitionInvalid as error:
        raise _refusal("agent_invalid", error) from None
    canonical = canonical_agent(validated.name, validated.agent)
    return AgentDraft(
        name=validated.name,
        agent=validated.agent,
        canonical=canonical,
        content_hash=content_hash(canonical),
        source=source.decode(),
        source_format=_format_of(source),
        warnings=tuple(mistakes(validated.warnings)),
    )


def _format_of(source: bytes) -> str:
    return "json" if source.lstrip()[:1] == b"{" else "yaml"


def _refusal(code: str, error: DefinitionInvalid) -> Refused:
    count = len(error.problems)
    detail = f"{error.problems[0]}" if count == 1 else f"the definition has {count} mistakes"
    return Refused(code, detail, mistakes(error.problems))


def mistakes(problems: Iterable[Problem]) -> list[Mistake]:
    """Return problems of a definition as entries of a problem document's `errors`."""
    return [_mistake(problem) for problem in problems]


def _mistake(problem: Problem) -> Mistake:
    shown: dict[str, Any] = {"loc": problem.path, "msg": problem.message, "type": "definition"}
    for name in ("line", "column", "suggestion"):
        if getattr(problem, name) is not None:
            shown[name] = getattr(problem, name)
    return shown
