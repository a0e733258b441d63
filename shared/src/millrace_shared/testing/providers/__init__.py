"""A real HTTP server that speaks OpenAI's chat completions and Anthropic's messages, and does what a test tells it.

    with FakeProviders(reply("hello")) as providers:
        ...                                        # clients talk to providers.openai_url, or to providers.anthropic_url
        assert providers.calls[0].model == "gpt-4o-mini"

A script is one `Reply`, or several (the last repeats), or a function from the `Call` to its reply, which may be a
coroutine. The server runs in a thread of its own, so processes and other event loops may call it:

| reply | what the client sees |
|---|---|
| `reply("text", calls(...))` | text, tool calls, or both; as JSON or as a stream, as the client asks |
| `structured(call, value)` | a value of the JSON Schema that is asked for, in the way that it is asked for |
| `refused(429, retry_after_s=2)` | an error in the protocol's form; 413, 500 and so on likewise |
| `raw(b"{")` | a body that is not what it should be |
| `never()` | nothing, until the client gives up |
| `hang_up(after_pieces=3)` | a stream, or at 0 a connection, that breaks |
| `endless()`, `endless(size_bytes=…)` | text without end, or of so many bytes |

`Reply.delay_s`, `Reply.piece_delay_s` and `Reply.hold` slow any of them down. `Quota` answers 429 beyond so many
requests or tokens in a window. `FakeProviders.calls` holds what was asked, and what became of it.
"""

from millrace_shared.testing.providers.quota import Quota
from millrace_shared.testing.providers.replies import (
    Call,
    Reply,
    ToolCall,
    calls,
    endless,
    hang_up,
    never,
    raw,
    refused,
    reply,
    structured,
)
from millrace_shared.testing.providers.server import FakeProviders, Script

__all__ = [
    "Call",
    "FakeProviders",
    "Quota",
    "Reply",
    "Script",
    "ToolCall",
    "calls",
    "endless",
    "hang_up",
    "never",
    "raw",
    "refused",
    "reply",
    "structured",
]
