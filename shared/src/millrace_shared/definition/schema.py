"""The definition as JSON Schema, so that editors complete and check it while it is written.

It is derived from the model. Editors see shapes; what spans fields (steps that exist, cycles, expressions) is
`validation.py`'s.
"""

from typing import Any

from millrace_shared.definition.model import STEP_KINDS, WorkflowDefinition

SCHEMA_ID = "https://millrace.dev/schema/workflow-v1.json"
_EXPRESSION = {"type": "string", "pattern": r"^\s*\$\{\{[\s\S]*\}\}\s*$"}


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema (Draft 2020-12) of workflow definitions, version 1."""
    schema = WorkflowDefinition.model_json_schema(by_alias=True, mode="validation")
    parts = schema["$defs"]
    for part in (schema, *parts.values()):
        for field in part["properties"].values():
            _allow_null(field)
    for shorthand, key in (("PythonCall", "call"), ("Tool", "name"), ("WorkflowCall", "name")):
        whole = parts[shorthand]
        parts[shorthand] = {
            "title": whole["title"],
            "description": whole["description"],
            "anyOf": [whole["properties"][key], whole],
        }
    _add_spellings(parts["Agent"])
    singleton = schema["properties"]["singleton"]
    singleton["anyOf"] = [{"type": "boolean"}, *singleton["anyOf"]]
    parts["Repeat"]["properties"]["until"]["anyOf"].append({"type": "boolean"})
    step = parts["Step"]
    step["properties"]["plan"] = {
        "title": "Plan",
        "description": step["properties"]["plan"]["description"],
        "anyOf": [{"type": "object", "required": ["steps"]}, _EXPRESSION, {"type": "null"}],
    }
    step["properties"]["for_each"] = {
        "title": "For Each",
        "description": step["properties"]["for_each"]["description"],
        "anyOf": [{"type": "array"}, _EXPRESSION, {"type": "null"}],
    }
    step["properties"]["when"]["anyOf"].append({"type": "boolean"})
    step["oneOf"] = [{"required": [kind], "properties": {kind: {"not": {"type": "null"}}}} for kind in STEP_KINDS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def _add_spellings(agent: dict[str, Any]) -> None:
    """Adds the other words for fields of an agent; see `agents.with_one_spelling`."""
    text = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    agent["properties"] |= {
        "agent_type": {"description": "What every agent is.", "anyOf": [{"const": "react"}, {"type": "null"}]},
        "llm_provider": {"description": "The provider of `model`, by itself.", **text},
        "llm_model": {"description": "The rest of `model`.", **text},
        "max_iterations": {
            "description": "That of `limits`.",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
        },
    }
    agent["anyOf"] = [{"required": [key]} for key in ("model", "llm_model", "use")]


def _allow_null(field: dict[str, Any]) -> None:
    """Null and absent mean the same everywhere, so an editor must not mark null as a mistake."""
    described: dict[str, Any] = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
    if not field or {"type": "null"} in field.get("anyOf", ()):
        field.update(described)
        return
    inner: dict[str, Any] = dict(field)
    field.clear()
    options = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    field.update({**described, "anyOf": [*options, {"type": "null"}]})
