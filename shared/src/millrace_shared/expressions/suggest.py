"""The nearest known word to a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

WORD_CHARS_MAX = 64
CANDIDATES_MAX = 10_000
"""Known words looked at."""

COMPARED_MAX = 50
"""Known words compared in earnest: difflib takes some 50 us for each."""

_LETTERS_APART_MAX = 4


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word most similar to `word`, or None when none is near."""
    if not word or len(word) > WORD_CHARS_MAX:
        return None
    folded = word.casefold()
    letters = set(folded)
    likely: dict[str, str] = {}
    for name in islice(known, CANDIDATES_MAX):
        if abs(len(name) - len(word)) > len(word) // 2 + 1:
            continue
        candidate = name.casefold()
        if candidate == folded:
            return name
        if len(letters.symmetric_difference(candidate)) <= _LETTERS_APART_MAX:
            likely.setdefault(candidate, name)
    alike = sorted(likely, key=lambda candidate: len(letters.symmetric_difference(candidate)))[:COMPARED_MAX]
    matches = get_close_matches(folded, alike, n=1, cutoff=0.6)
    return likely[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Returns `did you mean "<nearest>"?`, or None when no known word is near."""
    match = nearest(word, known)
    return None if match is None else f'did you mean "{match}"?'
