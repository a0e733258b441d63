"""What a call cost, by the price list that ships with `genai-prices`. An unknown price is None, never 0."""

from __future__ import annotations

import warnings
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

from genai_prices import calc_price
from pydantic_ai.usage import RequestUsage

from millrace_agent_runner.executors.agent.models import OFFLINE


class Price(NamedTuple):
    """The cost of a call in US dollars, and the price list that says so."""

    cost_usd: Decimal | None
    price_version: str | None


UNKNOWN = Price(None, None)
NOTHING = Price(Decimal(0), None)


def price_of(usage: RequestUsage, provider: str, model: str, endpoint: str | None) -> Price:
    """Price a call by the provider that was called.

    Args:
        usage: tokens; a provider that did not say leaves the price unknown.
        provider: as in `provider:model`.
        model: likewise; not the name in the response, which may be an alias.
        endpoint: the address in place of the provider's own: whoever answers there has prices of their own.
    """
    if provider == OFFLINE:
        return NOTHING
    if usage.unmeasured_requests or not usage.total_tokens:
        return UNKNOWN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if endpoint is not None:
                price = calc_price(usage, model, provider_api_url=endpoint)
            else:
                price = calc_price(usage, model, provider_id=provider)
    except (LookupError, ValueError):
        return UNKNOWN
    return Price(price.total_price, _price_version())


@lru_cache(maxsize=1)
def _price_version() -> str:
    return f"genai-prices {version('genai-prices')}"
