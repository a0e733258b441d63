"""From `provider:model` to a model that can be called. The engine retries, so the providers' SDKs must not.

| provider | key | endpoint |
|---|---|---|
| openai | OPENAI_API_KEY | OpenAI, or any compatible one by MILLRACE_OPENAI_BASE_URL (a key is then optional) |
| anthropic | ANTHROPIC_API_KEY | Anthropic, or what ANTHROPIC_BASE_URL names |
| groq | GROQ_API_KEY | Groq, or what GROQ_BASE_URL names |
| google | GOOGLE_API_KEY or GEMINI_API_KEY | the Gemini API |
| mistral | MISTRAL_API_KEY | Mistral |
| offline | none | none: a stand-in that says so, see `offline.py` |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple

import httpx2
from pydantic_ai.models import Model

from millrace_agent_runner.errors import RetryableFailure, TerminalFailure
from millrace_agent_runner.executors.agent.bodies import bounded
from millrace_agent_runner.executors.agent.offline import offline_model

MODELS_MAX = 1_000
"""Each keeps connections of its own."""
HTTP_TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
"""Seconds. How long a provider may be silent; that a call ends in time is seen to by `bounded.py`."""
OFFLINE = "offline"
_UNUSED_KEY = "no-key-needed"

KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "mistral": ("MISTRAL_API_KEY",),
}
ENDPOINTS: Mapping[str, str] = {"anthropic": "ANTHROPIC_BASE_URL", "groq": "GROQ_BASE_URL"}
"""The variables by which these providers' own libraries are sent elsewhere."""


class Models:
    """Makes models and keeps them, with their connections.

    Args:
        environment: holds the providers' keys, and addresses in place of their own.
        openai_base_url: an OpenAI-compatible endpoint in place of OpenAI's.
    """

    def __init__(self, environment: Mapping[str, str], openai_base_url: str | None) -> None:
        given = {provider: environment.get(name) or None for provider, name in ENDPOINTS.items()}
        self._endpoints = {**given, "openai": openai_base_url}
        self._keys = {name: environment[name] for names in KEYS.values() for name in names if environment.get(name)}
        self._models: dict[str, Model] = {}
        self._open = AsyncExitStack()
        self._making = asyncio.Lock()

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key, so that errors can be scrubbed of them."""
        return tuple(self._keys.values())

    def endpoint(self, provider: str) -> str | None:
        """Return the address that takes the place of a provider's own, or None."""
        return self._endpoints.get(provider)

    async def get(self, name: str) -> Model:
        """Return the model called `provider:model`.

        Raises:
            TerminalFailure: there is no such provider, or its key is missing.
        """
        if name not in self._models:
            async with self._making:
                if name not in self._models:
                    provider, _, model = name.partition(":")
                    self._models[name] = await self._make(provider, model)
        return self._models[name]

    async def close(self) -> None:
        """Close the connections of all models."""
        self._models.clear()
        await self._open.aclose()

    async def _make(self, provider: str, model: str) -> Model:
        if len(self._models) >= MODELS_MAX:
            message = f"this runner has used {MODELS_MAX} models since it started, its limit; restart it"
            raise RetryableFailure(message, category="internal", code="models_exhausted")
        if provider == OFFLINE:
            return offline_model(model)
        make = _MAKERS.get(provider)
        if make is None:
            known = ", ".join([*_MAKERS, OFFLINE])
            message = f'there is no model provider "{provider}" (in "{provider}:{model}"); there are: {known}'
            raise TerminalFailure(message, category="input_invalid", code="provider_unknown")
        # In a thread, since a provider's library takes a second to import and the other slots need the loop.
        made = await asyncio.to_thread(make, model, self._key(provider), self.endpoint(provider))
        if made.close is not None:
            self._open.push_async_callback(made.close)
        await self._open.enter_async_context(made.model)
        return made.model

    def _key(self, provider: str) -> str:
        for name in KEYS[provider]:
            if name in self._keys:
                return self._keys[name]
        if self.endpoint(provider):
            return _UNUSED_KEY
        message = (
            f"no API key for {provider}: set {' or '.join(KEYS[provider])} in the environment of the agent runner "
            'and restart it, or use a model "offline:demo", which calls nobody'
        )
        raise TerminalFailure(message, category="llm_auth", code="api_key_missing")


class _Made(NamedTuple):
    """A model, and what closes a client that it does not own."""

    model: Model
    close: Callable[[], Awaitable[None]] | None = None


def _openai(model: str, key: str, base_url: str | None) -> _Made:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=bounded(DefaultAsyncHttpxClient()))
    return _Made(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)), client.close)


def _anthropic(model: str, key: str, base_url: str | None) -> _Made:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = AsyncAnthropic(
        api_key=key, base_url=base_url, max_retries=0, http_client=bounded(DefaultAsyncHttpxClient())
    )
    return _Made(AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client)), client.close)


def _groq(model: str, key: str, base_url: str | None) -> _Made:
    from groq import AsyncGroq, DefaultAsyncHttpxClient
    from pydantic_ai.models.groq import GroqModel
    from pydantic_ai.providers.groq import GroqProvider

    client = AsyncGroq(api_key=key, base_url=base_url, max_retries=0, http_client=bounded(DefaultAsyncHttpxClient()))
    return _Made(GroqModel(model, provider=GroqProvider(groq_client=client)), client.close)


def _google(model: str, key: str, _: str | None) -> _Made:
    from google.genai.types import HttpRetryOptions
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    client = bounded(httpx2.AsyncClient(timeout=HTTP_TIMEOUT))
    provider = GoogleProvider(api_key=key, http_client=client, retry_options=HttpRetryOptions(attempts=1))
    return _Made(GoogleModel(model, provider=provider), client.aclose)


def _mistral(model: str, key: str, _: str | None) -> _Made:
    from pydantic_ai.models.mistral import MistralModel
    from pydantic_ai.providers.mistral import MistralProvider

    client = bounded(httpx2.AsyncClient(timeout=HTTP_TIMEOUT))
    provider = MistralProvider(api_key=key, http_client=client)
    return _Made(MistralModel(model, provider=provider), client.aclose)


_MAKERS: Mapping[str, Callable[[str, str, str | None], _Made]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "groq": _groq,
    "google": _google,
    "mistral": _mistral,
}
