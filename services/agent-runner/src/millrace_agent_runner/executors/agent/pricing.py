"""What a call costs: by the operator's prices, else by those of `genai-prices`. Unknown is None, never 0."""

from __future__ import annotations

import warnings
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

from genai_prices import calc_price
from pydantic_ai.usage import RequestUsage

from millrace_agent_runner.domain.prices import NONE, OwnPrices
from millrace_agent_runner.executors.agent.models import OFFLINE


class Price(NamedTuple):
    """The cost of a call in US dollars, and the price list that says so."""

    cost_usd: Decimal | None
    price_version: str | None


UNKNOWN = Price(None, None)
NOTHING = Price(Decimal(0), None)


def price_of(usage: RequestUsage, provider: str, model: str, endpoint: str | None, own: OwnPrices = NONE) -> Price:
    """Price a call by the provider that was called.

    Args:
        usage: tokens; a provider that did not say leaves the price unknown.
        provider: as in `provider:model`.
        model: likewise; not the name in the response, which may be an alias.
        endpoint: the address in place of the provider's own: whoever answers there has prices of their own.
        own: the operator's prices, which go before the list.
    """
    if provider == OFFLINE:
        return NOTHING
    if usage.unmeasured_requests or not usage.total_tokens:
        return UNKNOWN
    if (price := own.of(provider, model)) is not None:
        cost_usd = price.cost_usd(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
        return Price(cost_usd, price.version)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if endpoint is not None:
                found = calc_price(usage, model, provider_api_url=endpoint)
            else:
                found = calc_price(usage, model, provider_id=provider)
    except (LookupError, ValueError):
        return UNKNOWN
    return Price(found.total_price, _price_version())


@lru_cache(maxsize=1)
def _price_version() -> str:
    return f"genai-prices {version('genai-prices')}"
