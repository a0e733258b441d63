"""From `provider:model` to a model that can be called. The engine retries, so the providers' SDKs must not.

| provider | key | endpoint |
|---|---|---|
| openai | OPENAI_API_KEY | OpenAI, or any compatible one by MILLRACE_OPENAI_BASE_URL (a key is then optional) |
| anthropic | ANTHROPIC_API_KEY | Anthropic |
| groq | GROQ_API_KEY | Groq |
| google | GOOGLE_API_KEY or GEMINI_API_KEY | the Gemini API |
| mistral | MISTRAL_API_KEY | Mistral |
| offline | none | none: a stand-in that says so, see `offline.py` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic_ai.models import Model

from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.executors.agent.offline import offline_model

MODELS_CACHED_MAX = 256
OFFLINE = "offline"
_UNUSED_KEY = "no-key-needed"

KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "mistral": ("MISTRAL_API_KEY",),
}


class Models:
    """Makes models and keeps them, with their connections.

    Args:
        environment: holds the providers' keys.
        openai_base_url: an OpenAI-compatible endpoint in place of OpenAI's.
    """

    def __init__(self, environment: Mapping[str, str], openai_base_url: str | None) -> None:
        self._openai_base_url = openai_base_url
        self._keys = {name: environment[name] for names in KEYS.values() for name in names if environment.get(name)}
        self._models: dict[str, Model] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key, so that errors can be scrubbed of them."""
        return tuple(self._keys.values())

    def endpoint(self, provider: str) -> str | None:
        """Return the address that takes the place of a provider's own, or None."""
        return self._openai_base_url if provider == "openai" else None

    def get(self, name: str) -> Model:
        """Return the model called `provider:model`.

        Raises:
            TerminalFailure: there is no such provider, or its key is missing.
        """
        found = self._models.get(name)
        if found is None:
            provider, _, model = name.partition(":")
            found = self._make(provider, model)
            if len(self._models) < MODELS_CACHED_MAX:
                self._models[name] = found
        return found

    def _make(self, provider: str, model: str) -> Model:
        if provider == OFFLINE:
            return offline_model(model)
        make = _MAKERS.get(provider)
        if make is None:
            known = ", ".join([*_MAKERS, OFFLINE])
            message = f'there is no model provider "{provider}" (in "{provider}:{model}"); there are: {known}'
            raise TerminalFailure(message, category="input_invalid", code="provider_unknown")
        return make(model, self._key(provider), self.endpoint(provider))

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
        raise TerminalFailure(message, category="auth", code="api_key_missing")


def _openai(model: str, key: str, base_url: str | None) -> Model:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)
    return OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))


def _anthropic(model: str, key: str, _: str | None) -> Model:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = AsyncAnthropic(api_key=key, max_retries=0)
    return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))


def _groq(model: str, key: str, _: str | None) -> Model:
    from groq import AsyncGroq
    from pydantic_ai.models.groq import GroqModel
    from pydantic_ai.providers.groq import GroqProvider

    client = AsyncGroq(api_key=key, max_retries=0)
    return GroqModel(model, provider=GroqProvider(groq_client=client))


def _google(model: str, key: str, _: str | None) -> Model:
    from google.genai.types import HttpRetryOptions
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    return GoogleModel(model, provider=GoogleProvider(api_key=key, retry_options=HttpRetryOptions(attempts=1)))


def _mistral(model: str, key: str, _: str | None) -> Model:
    from pydantic_ai.models.mistral import MistralModel
    from pydantic_ai.providers.mistral import MistralProvider

    return MistralModel(model, provider=MistralProvider(api_key=key))


_MAKERS: Mapping[str, Callable[[str, str, str | None], Model]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "groq": _groq,
    "google": _google,
    "mistral": _mistral,
}
