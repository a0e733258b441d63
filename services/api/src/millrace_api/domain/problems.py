"""Every problem that the api answers with, in one table, and the RFC 9457 document of each.

`code` is what clients switch on: it never changes. The documentation is generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

CONTENT_TYPE = "application/problem+json"
INPUT_CHARS_MAX = 200
"""More of a wrong value than this is not repeated in the answer."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: HTTP status, title, and what a caller can do about it."""

    status: int
    title: str
    remedy: str


PROBLEMS: Mapping[str, Kind] = {
    "bad_request": Kind(400, "Bad request", "Correct the request as the detail says."),
    "unauthorized": Kind(401, "Not authenticated", "Send `Authorization: Bearer <api key>`."),
    "webhook_signature_invalid": Kind(401, "Signature invalid", "Sign the request with the webhook's secret, anew."),
    "operator_only": Kind(403, "For the operator only", "Ask whoever runs this installation."),
    "not_found": Kind(404, "No such path", "See /docs for the paths that exist."),
    "workflow_not_found": Kind(404, "No such workflow", "List workflows with GET /api/v1/workflows."),
    "workflow_version_not_found": Kind(404, "No such version", "List them with GET /api/v1/workflows/{id}/versions."),
    "agent_not_found": Kind(404, "No such agent", "List agents with GET /api/v1/agents."),
    "agent_version_not_found": Kind(404, "No such version", "List them with GET /api/v1/agents/{id}/versions."),
    "execution_not_found": Kind(404, "No such execution", "List executions with GET /api/v1/executions."),
    "step_not_found": Kind(404, "No such step", "The execution's detail lists its steps."),
    "signal_unknown": Kind(404, "No such signal", "Send one that a `wait` step of this execution names."),
    "trigger_not_found": Kind(404, "No such trigger", "List triggers with GET /api/v1/triggers."),
    "hook_not_found": Kind(404, "No such webhook", "Use the path that was shown when its token was made."),
    "dead_letter_not_found": Kind(404, "No such dead letter", "List them with GET /api/v1/dead."),
    "budget_not_found": Kind(404, "No such budget", "List them with GET /api/v1/budgets."),
    "rate_limit_not_found": Kind(404, "No such rate limit", "List them with GET /api/v1/rate-limits."),
    "method_not_allowed": Kind(405, "Method not allowed", "The `Allow` header names the methods that exist."),
    "request_timeout": Kind(408, "Request took too long to arrive", "Send the body without pauses; nothing was done."),
    "workflow_exists": Kind(409, "Workflow exists", "Save a new version with PUT /api/v1/workflows/{id}."),
    "workflow_name_mismatch": Kind(409, "Another workflow's definition", "Give the definition the workflow's name."),
    "workflow_archived": Kind(409, "Workflow is archived", "PUT a definition to bring the workflow back."),
    "agent_exists": Kind(409, "Agent exists", "Save a new version with PUT /api/v1/agents/{id}."),
    "agent_name_mismatch": Kind(409, "Another agent's document", "Give the document the agent's name."),
    "agent_archived": Kind(409, "Agent is archived", "PUT the agent to bring it back."),
    "execution_name_conflict": Kind(409, "Execution name in use", "Use another `execution_name`, or the same request."),
    "execution_already_finished": Kind(409, "Execution has ended", "Nothing can change it any more."),
    "execution_already_paused": Kind(409, "Execution is paused", "Resume it, or leave it."),
    "execution_not_paused": Kind(409, "Execution is not paused", "Only a paused execution can be resumed."),
    "execution_not_finished": Kind(409, "Execution has not ended", "Wait for its end, or cancel it first."),
    "execution_not_failed": Kind(409, "Execution did not fail", "Replay it, or fork it from a step."),
    "execution_is_part": Kind(409, "Part of another execution", "Ask the same of its parent execution."),
    "already_retried": Kind(409, "Retried already", "Look at the retry that the detail names, and retry that one."),
    "step_not_waiting": Kind(409, "Step does not wait for that", "The execution's `why` says what its steps wait for."),
    "already_decided": Kind(409, "Decided already", "The first answer counts; the step's output says which it was."),
    "too_many_signals": Kind(409, "Too many signals", "Start another execution; this one takes no more."),
    "trigger_exists": Kind(409, "Trigger exists", "Change it with PUT or PATCH /api/v1/triggers/{id}."),
    "too_many_triggers": Kind(409, "Too many triggers", "Remove some, or let one of them take several events."),
    "too_many_budgets": Kind(409, "Too many budgets", "Remove some, or let one hold for the whole workspace."),
    "too_many_rate_limits": Kind(409, "Too many rate limits", "Remove some, or let one hold for several models."),
    "dead_letter_already_redriven": Kind(409, "Sent again already", "Use `?again=true` to do it once more."),
    "dead_letter_not_redrivable": Kind(409, "Cannot be sent again", "The detail says why, and what to do instead."),
    "log_expired": Kind(410, "Log has expired", "The execution's detail and time line are kept; its feed is not."),
    "body_too_large": Kind(413, "Body too large", "Send less, or store the data elsewhere and pass a reference."),
    "unsupported_media_type": Kind(415, "Unsupported media type", "Send application/json, or YAML for definitions."),
    "request_invalid": Kind(422, "Request invalid", "Correct what `errors` names."),
    "workflow_invalid": Kind(422, "Workflow definition invalid", "Correct what `errors` names; nothing was saved."),
    "agent_invalid": Kind(422, "Agent invalid", "Correct what `errors` names; nothing was saved."),
    "input_invalid": Kind(422, "Execution input invalid", "Correct what `errors` names; nothing was started."),
    "trigger_invalid": Kind(422, "Trigger invalid", "Correct what `errors` names; nothing was saved."),
    "trigger_event_unusable": Kind(422, "Event cannot be used", "Correct the event, or the trigger's expressions."),
    "form_invalid": Kind(422, "Form invalid", "Correct what `errors` names; the step still waits."),
    "too_many_workflows": Kind(422, "Too many workflows used", "Use fewer sub-workflows, theirs included."),
    "reuse_too_large": Kind(422, "Results too large to take over", "Replay the execution, which takes none over."),
    "internal_error": Kind(500, "Internal error", "It was logged. If it persists, report it with the time."),
    "bus_unavailable": Kind(
        503, "Message bus unavailable", "Repeat the request; with an `execution_name` that is safe."
    ),
    "database_unavailable": Kind(503, "Database unavailable", "Repeat the request in a moment."),
    "blob_store_unavailable": Kind(503, "Blob store unavailable", "Repeat the request in a moment."),
    "upgrade_needed": Kind(503, "Written by a later version", "Upgrade this server, or ask one of that version."),
    "budgets_unavailable": Kind(503, "Budgets unavailable", "Start an agent runner with a database."),
    "rate_limits_unavailable": Kind(503, "Rate limits unavailable", "Start an agent runner with a database."),
    "too_many_drafts": Kind(503, "Too many definitions wait", "Repeat the request in a moment."),
    "too_many_watching": Kind(503, "Too many live feeds", "Close some, or use another instance."),
    "too_many_waiting": Kind(503, "Too many requests wait", "Leave `wait` out, and ask for the execution."),
}


def document(
    code: str, detail: str, errors: Sequence[Mapping[str, Any]] = (), extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the problem document as JSON. Text that is not Unicode is replaced rather than failing the answer."""
    kind = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"urn:millrace:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
    }
    if errors:
        body["errors"] = [_bounded(error) for error in errors]
    if extra:
        body.update(extra)
    return msgspec.json.encode(_unicode(body))


def _bounded(error: Mapping[str, Any]) -> dict[str, Any]:
    """Repeat a wrong value only as far as it helps to recognise it."""
    bounded = dict(error)
    if "input" in bounded:
        bounded["input"] = excerpt(bounded["input"])
    return bounded


def excerpt(value: Any) -> Any:
    """Return a small value as it is, and the beginning of the text of a large one."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else _json(value)
    if len(text) <= INPUT_CHARS_MAX:
        return value if isinstance(value, str | dict | list) else text
    return f"{text[:INPUT_CHARS_MAX]}… ({len(text)} characters)"


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return type(value).__name__


def _unicode(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_unicode(name): _unicode(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unicode(item) for item in value]
    return value
