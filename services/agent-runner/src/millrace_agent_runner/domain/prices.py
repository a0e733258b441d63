"""Prices of models that an operator sets: they go before those of the price list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec

PRICES_MAX = 10_000
PER_MILLION_MAX = Decimal(1_000_000)
_MILLION = Decimal(1_000_000)
_WORD = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """US dollars for a million tokens of `provider`'s `model`.

    Attributes:
        provider: as in `provider:model`.
        model: likewise.
        input_per_million: of what is sent.
        output_per_million: of what is answered.
        version: recorded with every call that was priced by it.
        cached_per_million: of what is sent and the provider had read before; as other input when None.
    """

    provider: str
    model: str
    input_per_million: Decimal
    output_per_million: Decimal
    version: str
    cached_per_million: Decimal | None = None

    def cost_usd(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
        """Return what a call costs. `cached_tokens` are a part of `input_tokens`."""
        cached = min(cached_tokens, input_tokens)
        per_cached = self.input_per_million if self.cached_per_million is None else self.cached_per_million
        return (
            self.input_per_million * (input_tokens - cached)
            + per_cached * cached
            + self.output_per_million * output_tokens
        ) / _MILLION


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: str
    model: str
    input_per_million: Decimal
    output_per_million: Decimal
    version: str
    cached_per_million: Decimal | None = None


def read_prices(text: str) -> tuple[ModelPrice, ...]:
    """Read prices from a JSON array of objects with the fields of `ModelPrice`; empty text has none.

    Raises:
        ValueError: it is not that.
    """
    if not text.strip():
        return ()
    try:
        given = msgspec.json.decode(text, type=list[_Given], strict=False)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a JSON array of prices: {error}") from error
    if len(given) > PRICES_MAX:
        raise ValueError(f"{len(given)} prices; at most {PRICES_MAX} are possible")
    prices = tuple(ModelPrice(**msgspec.structs.asdict(one)) for one in given)
    for price in prices:
        if not all(_WORD.fullmatch(word) for word in (price.provider, price.model, price.version)):
            raise ValueError(f"the names of the price of {price.provider}:{price.model} must be without spaces")
        of_kinds = (price.input_per_million, price.output_per_million, price.cached_per_million or Decimal(0))
        if not all(one.is_finite() and 0 <= one <= PER_MILLION_MAX for one in of_kinds):
            raise ValueError(f"the price of {price.provider}:{price.model} must lie between 0 and {PER_MILLION_MAX:,}")
    if len({(one.provider, one.model) for one in prices}) < len(prices):
        raise ValueError("two prices have the same provider and model")
    return prices


class OwnPrices:
    """The prices that operators set, as they are now.

    Args:
        defaults: of the environment; those of the database go before them.
    """

    def __init__(self, defaults: Iterable[ModelPrice] = ()) -> None:
        self._defaults = tuple(defaults)
        self.use(())

    def use(self, kept: Iterable[ModelPrice]) -> None:
        """Take the database's prices, in place of those that it had before."""
        self._prices = {(one.provider, one.model): one for one in (*self._defaults, *kept)}

    def of(self, provider: str, model: str) -> ModelPrice | None:
        """Return the price of a model, or None."""
        return self._prices.get((provider, model))


NONE: Final = OwnPrices()
