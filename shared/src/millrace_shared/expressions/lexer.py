"""Splits CEL text into tokens: enough to find where an expression ends and which names it uses.

CEL itself is parsed by CEL. This only has to agree with it on strings, comments and names, so that a `}}`
or a name inside a string is not taken for syntax.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from millrace_shared.expressions.errors import ExpressionInvalid
from millrace_shared.expressions.limits import EXPRESSION_BYTES_MAX

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<string>
          [bB]?(?:[rR]'''(?:.|\n)*?'''|[rR]\"\"\"(?:.|\n)*?\"\"\"|[rR]'[^'\n]*'|[rR]"[^"\n]*")
        | [rR][bB](?:'[^'\n]*'|"[^"\n]*")
        | [bB]?(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")
      )
    | (?P<number>0[xX][0-9a-fA-F]+[uU]?|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?[uU]?|\.\d+(?:[eE][+-]?\d+)?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*|`[^`\n]*`)
    | (?P<operator>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE,
)


EXCERPT_CHARS_MAX = 80


class Token(NamedTuple):
    """One token: `kind` is string, number, name or operator; `start` and `end` are offsets into the text."""

    kind: str
    text: str
    start: int
    end: int


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """Yields the tokens of `text` from `start` on, without white space and comments.

    Raises:
        ExpressionInvalid: A character begins no token, or a string does not end.
    """
    position = start
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionInvalid(_excerpt(text, start), _unexpected(text[position]))
        kind = match.lastgroup
        assert kind is not None
        if kind != "space":
            yield Token(kind, match.group(), position, match.end())
        position = match.end()


def _unexpected(character: str) -> str:
    if character in "'\"":
        return "a string is not closed"
    if character == "=":
        return "a single = means nothing here; compare with =="
    if character in "&|":
        return f"a single {character} means nothing here; write {character}{character}"
    return f"the character {character!r} means nothing here"


def end_of_expression(text: str, start: int) -> int:
    """Returns the offset of the `}}` that closes the expression which begins at `start`.

    Raises:
        ExpressionInvalid: There is none.
    """
    depth = 0
    closing: Token | None = None
    for token in tokens(text, start):
        if token.start - start > EXPRESSION_BYTES_MAX:
            reason = f"no }}}} follows within {EXPRESSION_BYTES_MAX} bytes, the longest that an expression may be"
            raise ExpressionInvalid(_excerpt(text, start), reason, "close it, or move the work into a python step")
        if token.text == "{":
            depth += 1
        elif token.text == "}":
            if depth:
                depth -= 1
            elif closing is not None and closing.end == token.start:
                return closing.start
            else:
                closing = token
                continue
        closing = None
    raise ExpressionInvalid(_excerpt(text, start), "the expression is not closed", "add }}")


def _excerpt(text: str, start: int) -> str:
    """Returns the beginning of an expression whose end is unknown."""
    return text[start : start + EXCERPT_CHARS_MAX].partition("}}")[0].strip()
