"""`human.ask`: a model's question to people, in the execution's timeline.

The attempt gives its place back while it waits. The next one goes on with the recorded conversation, comes to the same
call, and finds the answer.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from pydantic_ai import RunContext

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.secrets import scrub
from millrace_agent_runner.errors import Deferred
from millrace_agent_runner.executors.agent.replay import key_of_call
from millrace_agent_runner.executors.agent.tools.tool import Described, Settings, model_name, read_settings
from millrace_shared.messages import Answer, Deferral
from millrace_shared.values import Payload

HUMAN_ASK = "human.ask"
TIMEOUT_S_DEFAULT = 7 * 86_400.0
TIMEOUT_S_MAX = 30 * 24 * 3600.0
"""The journal, in which the conversation goes on, is kept for longer."""
QUESTION_CHARS_MAX = 4_000
DETAIL_CHARS_MAX = 200


class _Settings(Settings, frozen=True, kw_only=True):
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_S_MAX)] = TIMEOUT_S_DEFAULT
    """How long people have."""
    form: dict[str, Any] | None = None


def ask(config: dict[str, Any], attempt: Attempt) -> Described:
    """Return the tool `human.ask`.

    Raises:
        TerminalFailure: its settings are wrong.
    """
    settings = read_settings(HUMAN_ASK, config, _Settings)

    async def call(arguments: dict[str, Any], context: RunContext[None]) -> Any:
        key = f"{context.run_step}-{key_of_call(context.tool_call_id, HUMAN_ASK, arguments)}"
        given = next((answer for answer in attempt.step.answers if answer.ask == key), None)
        if given is not None:
            return _told(given)
        question = scrub(arguments["question"], attempt.secrets)
        raise Deferred(
            Deferral(
                until=time.time() + settings.timeout_s,
                reason="approval",
                detail=question[:DETAIL_CHARS_MAX],
                ask=key,
                question=Payload(data={"message": question, "form": settings.form}),
            )
        )

    question = {"type": "string", "minLength": 1, "maxLength": QUESTION_CHARS_MAX, "description": "What to ask."}
    return Described(
        name=model_name(HUMAN_ASK),
        description=(
            "Ask a person, who approves or rejects, and may add a note. Say all that is needed to decide: the person "
            "does not see this conversation. Their answer may take days."
        ),
        schema={
            "type": "object",
            "properties": {"question": question},
            "required": ["question"],
            "additionalProperties": False,
        },
        call=call,
        settings=settings,
        # Asking again is finding the answer. Nothing else may run meanwhile, since the attempt ends here.
        is_idempotent=True,
        is_alone=True,
    )


def _told(answer: Answer) -> dict[str, Any]:
    return {"answered": bool(answer.by), "approved": answer.approved, "note": answer.note, "data": answer.data.data}
