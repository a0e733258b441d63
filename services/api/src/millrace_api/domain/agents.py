"""Agents that are saved by themselves, as the api keeps and shows them, and the request that runs one alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
from pydantic import ValidationError

from millrace_api.domain.documents import decode
from millrace_api.domain.launch import LABELS_MAX, ExecutionName, LabelName, LabelValue, Version
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.uses import Missing
from millrace_shared.definition.model import Agent, WorkflowDefinition
from millrace_shared.definition.saved_agents import references_of, split_reference
from millrace_shared.errors import UpgradeNeeded
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.messages import Priority

_Labels = Annotated[dict[LabelName, LabelValue], msgspec.Meta(max_length=LABELS_MAX)]


@dataclass(frozen=True, slots=True)
class AgentDraft:
    """An agent that passed validation, ready to be saved: its canonical bytes, their hash, and its source."""

    name: str
    agent: Agent
    canonical: bytes
    content_hash: str
    source: str
    source_format: str
    warnings: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SavedAgent:
    """One version of an agent. Of the others there is `latest_version`."""

    id: str
    workspace: str
    name: str
    description: str | None
    latest_version: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    version: int
    content_hash: str
    version_created_at: datetime
    created_by: str
    definition: str | None = None
    source: str | None = None
    source_format: str | None = None

    @property
    def agent(self) -> Agent:
        """What it is, when its definition was read.

        Raises:
            UpgradeNeeded: it has what this version does not know. It was valid when it was saved.
        """
        assert self.definition is not None
        document = msgspec.json.decode(self.definition)
        del document["name"]
        try:
            return Agent.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            message = f"agent {self.name} was saved by a later version ({place}: {first['msg']}): upgrade this service"
            raise UpgradeNeeded(message) from error


class Invocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /agents/{id}/invoke`. Null and absent mean the same. `input` is data that the model sees as JSON."""

    prompt: str
    input: Any = None
    version: Version | None = None
    execution_name: ExecutionName | None = None
    priority: Priority | None = None
    labels: _Labels | None = None


_decoder = msgspec.json.Decoder(Invocation)


def decode_invocation(body: bytes) -> Invocation:
    """Decode a request to run an agent alone.

    Raises:
        Refused: `request_invalid`, naming the field.
    """
    return decode(_decoder, body)


def missing_agents(
    definition: WorkflowDefinition, known: Mapping[str, SavedAgent], there: Collection[str]
) -> list[tuple[str, Missing]]:
    """Return the agents of a definition that refer to none, each with the code of its problem.

    Args:
        definition: the definition that is to be saved, or started.
        known: the saved agents, by reference.
        there: every name that may be suggested.
    """
    found: list[tuple[str, Missing]] = []
    for name, reference in references_of(definition).items():
        saved = known.get(reference)
        wanted, version = split_reference(reference)
        at = ("agents", name, "use")
        if saved is not None and saved.archived_at is not None:
            absent = Missing(at, f'agent "{wanted}" is archived', "save it anew to bring it back")
            found.append(("agent_archived", absent))
        elif saved is None and version is not None and wanted in there:
            found.append(("agent_version_not_found", Missing(at, f'agent "{wanted}" has no version {version}')))
        elif saved is None:
            absent = Missing(at, f'there is no agent "{wanted}" in this workspace', did_you_mean(wanted, there))
            found.append(("agent_not_found", absent))
    return found


def render(saved: SavedAgent) -> dict[str, Any]:
    """Return an agent as the api shows it; with its definition when that was read."""
    shown: dict[str, Any] = {
        "id": saved.id,
        "name": saved.name,
        "description": saved.description,
        "version": saved.version,
        "latest_version": saved.latest_version,
        "content_hash": saved.content_hash,
        "created_at": timestamp(saved.created_at),
        "updated_at": timestamp(saved.updated_at),
        "archived_at": timestamp(saved.archived_at),
    }
    return shown | _fields(saved) if saved.definition is not None else shown


def render_version(saved: SavedAgent) -> dict[str, Any]:
    """Return one version as the api shows it; with its definition when that was read."""
    shown: dict[str, Any] = {
        "agent_id": saved.id,
        "name": saved.name,
        "version": saved.version,
        "content_hash": saved.content_hash,
        "created_at": timestamp(saved.version_created_at),
        "created_by": saved.created_by,
    }
    return shown | _fields(saved) if saved.definition is not None else shown


def _fields(saved: SavedAgent) -> dict[str, Any]:
    """Return what an agent is, in the words that the api promises, and as it was written."""
    agent = saved.agent
    provider, _, model = (agent.model or "").partition(":")
    return {
        "agent_type": "react",
        "llm_provider": provider,
        "llm_model": model,
        "temperature": agent.temperature,
        "instructions": agent.instructions,
        "tools": [tool.model_dump(mode="json") for tool in agent.tools],
        "max_iterations": agent.limits.max_iterations,
        "streaming_enabled": agent.streaming_enabled,
        "fallback_models": list(agent.fallback_models),
        "timeout": agent.timeout,
        "output": agent.output,
        "definition": msgspec.Raw((saved.definition or "null").encode()),
        "source": saved.source,
        "source_format": saved.source_format,
    }
