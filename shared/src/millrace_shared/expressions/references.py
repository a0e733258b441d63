"""Finds what a CEL expression reads, and respells names that CEL would read differently than their author.

A step id may hold hyphens, which CEL takes for minus: `steps.load-all.output` becomes
`steps["load-all"].output`. Nothing is lost by that, since a step is an object and nothing can be subtracted
from it.
"""

import re
from dataclasses import dataclass, field

from millrace_shared.expressions.errors import ExpressionInvalid
from millrace_shared.expressions.lexer import Token, tokens
from millrace_shared.expressions.names import ROOTS, Key, check_reference
from millrace_shared.expressions.program import Program, Reference

MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})
"""Macros that loop over a list or the keys of an object."""

LITERALS = frozenset({"true", "false", "null"})
TYPE_NAMES = frozenset(
    {
        "bool",
        "bytes",
        "double",
        "duration",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "timestamp",
        "type",
        "uint",
    }
)
_KEYWORDS = frozenset({"in", *LITERALS})
_STEP_ID = re.compile(r"\s*\.\s*([a-z][a-z0-9_-]*)")
_SIMPLE_STRING = re.compile(r"""(['"])([^'"\\]*)\1""")


@dataclass(slots=True)
class _Scan:
    """The state of one pass over the tokens of an expression."""

    source: str
    tokens: list[Token]
    locals: frozenset[str]
    references: dict[Reference, None] = field(default_factory=dict)
    edits: list[tuple[int, int, str]] = field(default_factory=list)


def analyse(source: str) -> Program:
    """Reads an expression's names; does not check that the expression makes sense otherwise.

    Raises:
        ExpressionInvalid: A name does not exist, or stands where it may not.
    """
    found = list(tokens(source))
    scan = _Scan(source, found, _locals(source, found))
    position = 0
    while position < len(found):
        position = _read(scan, position)
    text = source
    for start, end, replacement in reversed(scan.edits):
        text = text[:start] + replacement + text[end:]
    return Program(source, text, tuple(scan.references), _has_macros(found))


def _is(scan_tokens: list[Token], position: int, *texts: str) -> bool:
    return 0 <= position < len(scan_tokens) and scan_tokens[position].text in texts


def _has_macros(found: list[Token]) -> bool:
    return any(
        token.text in MACROS and _is(found, position - 1, ".") and _is(found, position + 1, "(")
        for position, token in enumerate(found)
    )


def _locals(source: str, found: list[Token]) -> frozenset[str]:
    """The variables that macros declare: `s` in `.exists(s, s.done)`."""
    names = set()
    for position, token in enumerate(found):
        if token.text in MACROS and _is(found, position - 1, ".") and _is(found, position + 1, "("):
            declared = found[position + 2 : position + 4]
            if len(declared) == 2 and declared[0].kind == "name" and declared[1].text == ",":  # noqa: PLR2004
                names.add(declared[0].text)
    from_outside = names & set(ROOTS)
    if from_outside:
        name = min(from_outside)
        raise ExpressionInvalid(
            source,
            f"{name} already has a meaning and cannot be the variable of a macro",
            "use another name, such as x",
        )
    return frozenset(names)


def _read(scan: _Scan, position: int) -> int:
    """Reads one token, or a whole reference; returns the position after it."""
    token = scan.tokens[position]
    known = token.text in LITERALS or token.text in scan.locals or token.text in TYPE_NAMES or token.text == "in"
    is_call = _is(scan.tokens, position + 1, "(")
    if token.kind != "name" or known or is_call or _is(scan.tokens, position - 1, "."):
        return position + 1
    guarded = _is(scan.tokens, position - 1, "(") and _is(scan.tokens, position - 2, "has")
    keys, after = _keys(scan, position)
    if token.text == "secrets":
        raise ExpressionInvalid(
            scan.source,
            "a secret cannot be part of a larger expression",
            "write ${{ secrets.<name> }} on its own",
        )
    check_reference(scan.source, token.text, keys)
    scan.references[Reference(token.text, keys, guarded)] = None
    return after


def _keys(scan: _Scan, position: int) -> tuple[tuple[Key, ...], int]:
    """Reads what follows a root: `.name`, `["text"]` and `[0]`, up to a call or anything that is computed."""
    keys: list[Key] = []
    after = position + 1
    if scan.tokens[position].text == "steps" and (step := _STEP_ID.match(scan.source, scan.tokens[position].end)):
        keys.append(step.group(1))
        if "-" in step.group(1) or step.group(1) in _KEYWORDS:
            scan.edits.append((scan.tokens[position].end, step.end(), f'["{step.group(1)}"]'))
        while after < len(scan.tokens) and scan.tokens[after].start < step.end():
            after += 1
    while after + 1 < len(scan.tokens):
        token, value = scan.tokens[after], scan.tokens[after + 1]
        if token.text == "." and value.kind == "name" and not _is(scan.tokens, after + 2, "("):
            keys.append(value.text.strip("`"))
            if value.text in _KEYWORDS:
                scan.edits.append((token.start, value.end, f'["{value.text}"]'))
            after += 2
        elif token.text == "[" and _is(scan.tokens, after + 2, "]") and (key := _literal_key(value)) is not None:
            keys.append(key)
            after += 3
        else:
            break
    return tuple(keys), after


def _literal_key(token: Token) -> Key | None:
    if token.kind == "number" and token.text.isdigit():
        return int(token.text)
    text = _SIMPLE_STRING.fullmatch(token.text) if token.kind == "string" else None
    return text.group(2) if text else None
