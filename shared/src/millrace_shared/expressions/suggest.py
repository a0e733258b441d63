"""The nearest known word to a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches

CANDIDATES_MAX = 2_000
"""Words compared at most; comparing is slow and nobody reads a list that long either."""

WORD_CHARS_MAX = 64


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word most similar to `word`, or None when none is near."""
    if not word or len(word) > WORD_CHARS_MAX:
        return None
    candidates = [
        name for name in known if isinstance(name, str) and abs(len(name) - len(word)) <= len(word) // 2 + 1
    ]
    folded = {name.casefold(): name for name in reversed(candidates[:CANDIDATES_MAX])}
    matches = get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Returns `did you mean "<nearest>"?`, or None when no known word is near."""
    match = nearest(word, known)
    return None if match is None else f'did you mean "{match}"?'
