"""Regular expressions that take linear time on every text: CEL's RE2, since Python's can be made to run for ever."""

from collections.abc import Callable
from functools import lru_cache

from millrace_shared.expressions.cel import compile_program, evaluate_here
from millrace_shared.expressions.errors import ExpressionError


class RegexInvalid(ValueError):
    """A regular expression is not RE2."""


@lru_cache(maxsize=1_024)
def compile_regex(pattern: str) -> Callable[[str], bool]:
    """Returns a function that tells whether a text has a match anywhere.

    Raises:
        RegexInvalid: RE2 does not know it; look-around and back-references are not in RE2.
    """
    program = compile_program("inputs.text.matches(inputs.pattern)")

    def has_match(text: str) -> bool:
        return bool(evaluate_here(program, {"inputs": {"text": text, "pattern": pattern}}))

    try:
        has_match("")
    except ExpressionError as error:
        raise RegexInvalid(f"{error.reason} (patterns are RE2, without look-around)") from None
    return has_match
