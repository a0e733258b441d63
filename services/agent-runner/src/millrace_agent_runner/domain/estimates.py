"""How many tokens a call will use, before it is made: counted from its text, and corrected by what calls used.

A provider's own count needs its tokenizer, which is a download for some and a secret of others. The larger of a quarter
of the bytes and the number of words and symbols is within a fifth of it for English, code and JSON; a moving average
for each model takes care of the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role, and where it begins and ends."""
COUNTED_CHARS_MAX = 64 * 1024
"""A longer text is counted by its beginning: reading a megabyte would hold up the event loop."""
OUTPUT_TOKENS_DEFAULT = 256.0
"""Of an answer, until there was one."""
WEIGHT = 0.2
"""Of the newest call in the moving averages."""
RATIO_MIN, RATIO_MAX = 0.2, 5.0

_WORD_OR_SYMBOL = re.compile(r"\w+|[^\w\s]")


class Estimate(NamedTuple):
    """Tokens of one call: as counted from its text, and corrected, of input and of output."""

    counted: int
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """Of both."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Learned:
    """What calls to one model have shown.

    Attributes:
        input_ratio: tokens of input for each one that was counted.
        output_tokens: of an answer.
    """

    input_ratio: float = 1.0
    output_tokens: float = OUTPUT_TOKENS_DEFAULT

    def estimate(self, counted: int, output_max: int | None = None) -> Estimate:
        """Estimate a call.

        Args:
            counted: `count_tokens` of everything that is sent.
            output_max: the most that the model may answer, if that is bounded.
        """
        output = max(1, round(self.output_tokens))
        bounded = output if output_max is None else min(output, output_max)
        return Estimate(counted, max(1, round(counted * self.input_ratio)), bounded)

    def learn(self, counted: int, input_tokens: int, output_tokens: int) -> Learned:
        """Return what is known after a call of `counted` tokens of input used so many."""
        ratio = min(RATIO_MAX, max(RATIO_MIN, input_tokens / max(1, counted)))
        return Learned(
            self.input_ratio + WEIGHT * (ratio - self.input_ratio),
            self.output_tokens + WEIGHT * (output_tokens - self.output_tokens),
        )


def count_tokens(texts: Iterable[str]) -> int:
    """Return the tokens of messages with these texts, one each, as well as that is known without a tokenizer."""
    return sum(_count(text) + MESSAGE_TOKENS for text in texts)


def _count(text: str) -> int:
    begin = text[:COUNTED_CHARS_MAX]
    counted = max(-(-len(begin.encode("utf-8", "replace")) // BYTES_PER_TOKEN), len(_WORD_OR_SYMBOL.findall(begin)))
    return counted if len(text) <= COUNTED_CHARS_MAX else counted * len(text) // COUNTED_CHARS_MAX
