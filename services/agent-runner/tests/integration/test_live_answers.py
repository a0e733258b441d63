"""What viewers see of an answer whose runner is killed in the middle of it."""

import signal
from typing import Any

from millrace_shared import subjects
from millrace_shared.codec import decode_fact
from millrace_shared.messages import TokenDelta
from millrace_shared.testing.providers import Call, FakeProviders, Reply, calls, endless, reply

AGENT = {"name": "a", "model": "openai:m-1", "tools": ["fib"]}


async def pieces(bus: Any, execution_id: str) -> list[TokenDelta]:
    stored = await bus.stored("TELEMETRY", subjects.fact(execution_id, "token_delta"))
    return [fact for one in stored if isinstance(fact := decode_fact(one.payload), TokenDelta)]


async def test_an_answer_that_broke_off_is_void_and_one_that_was_finished_is_not_shown_again(
    bus: Any, start_runner: Any, step_factory: Any, providers: FakeProviders
) -> None:
    def script(call: Call) -> Reply:
        if call.number == 1:
            return reply("let me see", calls("fib", n=1))
        # The second call is in the middle of its answer when its runner is killed.
        return endless("again and again ", piece_delay_s=0.02) if call.number == 2 else reply("it is 1")

    providers.script = script
    step = step_factory("agent", {"agent": AGENT}, {"prompt": "Which one?"})
    environment = {"MILLRACE_OPENAI_BASE_URL": providers.openai_url}
    first = await start_runner(**environment)
    await first.line("is ready")
    await bus.offer(step)

    async def is_answering() -> bool:
        return any(piece.turn == 1 for piece in await pieces(bus, step.execution_id))

    await bus.eventually(is_answering, "a piece of the second answer")
    first.send(signal.SIGKILL)
    await first.exit_status()
    await start_runner(**environment)
    assert (await bus.result_of(step)).output.data == "it is 1"
    assert [call.fate for call in providers.calls] == ["sent", "left", "sent"]  # the first answer was in the journal

    async def is_shown() -> bool:
        return any(piece.text == "it is 1" for piece in await pieces(bus, step.execution_id))

    await bus.eventually(is_shown, "the last answer")
    found = await pieces(bus, step.execution_id)
    # Also the first runner may have said so: what was queued when it began may have been begun before.
    again = max(position for position, piece in enumerate(found) if piece.restarted)
    assert [(piece.turn, piece.text) for piece in found[again:]] == [(1, ""), (1, "it is 1")]
    assert {piece.turn for piece in found[:again] if piece.text} == {0, 1}
    assert "".join(piece.text for piece in found if piece.turn == 0) == "let me see"
