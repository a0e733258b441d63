"""The AsyncAPI 3 document for teams that publish events: what FastStream says of the edge, and what it cannot know.

`docs/generate.py` writes it to docs/asyncapi.yaml, and a test keeps that current.
"""

from __future__ import annotations

import json
from typing import Any

from faststream.nats import NatsMessage
from faststream.specification import AsyncAPI

from millrace_api.adapters.trigger_events import edge
from millrace_shared.bus.streams import DAY_S, EVENT_BYTES_MAX, STREAMS

_CHANNEL = "startExecutions"
DESCRIPTION = f"""
Other services start executions of workflows by publishing events. An event is JSON of any shape, published to
`trigger.<workspace>.<name>`; with its headers it has at most {EVENT_BYTES_MAX // 1024} KiB. Publish with JetStream and
wait for the acknowledgement: once it is there, the event is kept until its executions are durable.

What an event starts is said by the triggers of the workspace that take events of its name
(`POST /api/v1/triggers`, kind `event`): each has a filter, a mapping to the inputs of its workflow, and an expression
that tells the same event told twice. An event that cannot be used (it is not JSON, no trigger takes it, a mapping
fails, a workflow refuses the input) goes to the dead letters with the reason: `GET /api/v1/dead`, `millrace dead ls`.
"""

_ANY_JSON: dict[str, Any] = {"description": "Any JSON."}
_MESSAGE: dict[str, Any] = {
    "title": "An event",
    "contentType": "application/json",
    "headers": {
        "type": "object",
        "properties": {
            "Nats-Msg-Id": {"type": "string", "description": "Makes publishing repeatable: the same id is one event."},
            "traceparent": {"type": "string", "description": "W3C Trace Context, which the executions go on with."},
        },
    },
    "payload": {"$ref": "#/components/schemas/event"},
    "examples": [{"name": "order", "payload": {"id": "o-17", "customer": "acme", "total": 99.5}}],
}


async def _nobody(_event: Any, _message: NatsMessage) -> None:
    """Stand in for the service, of which the document needs the signature alone."""


def document() -> dict[str, Any]:
    """Return the document."""
    specification = AsyncAPI(
        edge(["nats://nats:4222"], _nobody),
        title="Millrace triggers",
        version="1",
        description=DESCRIPTION.strip(),
        schema_version="3.0.0",
    ).to_specification()
    described: dict[str, Any] = json.loads(specification.to_json())
    _complete(described)
    return {"asyncapi": described.pop("asyncapi"), **described}


def _complete(described: dict[str, Any]) -> None:
    """Put in what only we know, under keys that AsyncAPI allows."""
    described["servers"] = {"nats": _server(described["servers"].pop("development"))}
    described["channels"][_CHANNEL] |= _channel()
    described["channels"][_CHANNEL].pop("bindings", None)  # of its own making: the NATS binding has no such fields
    operation = described["operations"][_CHANNEL]
    operation["summary"] = "Start the executions that the workspace's triggers say."
    operation["messages"] = [{"$ref": f"#/channels/{_CHANNEL}/messages/event"}]
    described["components"] = {"messages": {"event": _MESSAGE}, "schemas": {"event": _ANY_JSON}}


def _server(server: dict[str, Any]) -> dict[str, Any]:
    described = {name: value for name, value in server.items() if value}
    described["description"] = "The NATS server, with the user that its operator gave to your service."
    return described


def _channel() -> dict[str, Any]:
    stream = next(stream for stream in STREAMS if stream.name == "TRIGGERS")
    return {
        "description": (
            f"The JetStream stream {stream.name}. It keeps an event for {stream.max_age_s / DAY_S:g} days at most, and "
            f"drops one that comes with the `Nats-Msg-Id` of another within {stream.duplicate_window_s:g} s."
        ),
        "servers": [{"$ref": "#/servers/nats"}],
        "messages": {"event": {"$ref": "#/components/messages/event"}},
        "parameters": {
            "workspace": {"description": "The slug of the workspace."},
            "name": {"description": "What has happened: letters, digits, `_` and `-`.", "examples": ["order-paid"]},
        },
    }
