"""One form for every way of writing the same definition, and its hash.

Two documents with the same meaning have the same hash: key order, null or absent, defaults written out or not,
`1h` or `3600`, YAML or JSON make no difference. The order of steps has no meaning either, so moving steps around
makes no new version. The canonical document keeps that order nevertheless: it is the `step_order` that people see,
in the version that was saved first.
"""

import hashlib
import json

from millrace_shared.definition.model import Agent, WorkflowDefinition


def canonical_json(definition: WorkflowDefinition) -> bytes:
    """Returns a definition as compact JSON in UTF-8, in the author's order, without what equals its default.

    Store it as text, since some databases sort the keys of JSON. `WorkflowDefinition.model_validate_json` and
    `model_validate` read it back.
    """
    # Defaults are left out rather than written in, so that a field added later does not change old hashes.
    data = definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return _compact({"version": definition.version, **data})


def canonical_agent(name: str, agent: Agent) -> bytes:
    """Returns an agent that is saved by itself as compact JSON, as `canonical_json` does definitions."""
    return _compact({"name": name, **agent.model_dump(mode="json", by_alias=True, exclude_defaults=True)})


def content_hash(canonical: bytes) -> str:
    """Returns the SHA-256, as lower-case hex, of what a canonical document means.

    Args:
        canonical: What `canonical_json` or `canonical_agent` returned.
    """
    return hashlib.sha256(_compact(json.loads(canonical), sort_keys=True)).hexdigest()


def _compact(data: object, *, sort_keys: bool = False) -> bytes:
    return json.dumps(data, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False).encode()
