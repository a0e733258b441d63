"""JSON from outside: decoded once, within bounds, and every refusal names what it refuses and where."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from millrace_api.errors import Mistake, Refused

DEPTH_MAX = 64
"""Nesting of objects and lists in a request."""
INTEGER_MAX = 2**63 - 1
"""Whole numbers beyond this (and below its negative) are not the same everywhere, so they are sent as text."""

T = TypeVar("T")

_AT = re.compile(r"^(?P<message>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"unknown field `(.+)`")
_MISSING = re.compile(r"missing required field `(.+)`")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def decode(decoder: msgspec.json.Decoder[T], body: bytes, code: str = "request_invalid") -> T:
    """Decode a request.

    Args:
        decoder: a decoder of the request's type.
        body: what came.
        code: the problem code of a refusal.

    Raises:
        Refused: the body is not JSON, not of the type, or over a bound.
    """
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _of_wrong_type(str(error), body, code) from None
    except UnicodeDecodeError as error:
        raise _refused(code, [], f"the body is not UTF-8 (byte {error.start})", "utf8_invalid") from None
    except msgspec.DecodeError as error:
        raise _refused(code, [], f"the body is not JSON: {_sentence(str(error))}", "json_invalid") from None
    except RecursionError:
        raise _too_deep(code) from None
    _check(body, code)
    return request


def _check(body: bytes, code: str) -> None:
    """Refuse what is JSON but does not survive every store. The exact look is only taken when a hint was seen."""
    brackets = body.count(b"{") + body.count(b"[")
    if brackets <= DEPTH_MAX and b"\\u0000" not in body and not _LONG_NUMBER.search(body):
        return
    walk: list[tuple[Any, list[str | int]]] = [(msgspec.json.decode(body), [])]
    while walk:
        value, path = walk.pop()
        if len(path) >= DEPTH_MAX and isinstance(value, dict | list):
            raise _too_deep(code)
        if isinstance(value, str):
            if "\x00" in value:
                raise _refused(code, path, "text must not hold NUL characters (\\u0000)", "nul_character")
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int):
            if abs(value) > INTEGER_MAX:
                raise _refused(
                    code, path, "the number is over 64 bits: send it as text", "number_out_of_range", str(value)
                )
        elif isinstance(value, dict):
            for name, item in value.items():
                if "\x00" in name:
                    raise _refused(code, path, "names must not hold NUL characters (\\u0000)", "nul_character")
                walk.append((item, [*path, name]))
        elif isinstance(value, list):
            walk.extend((item, [*path, position]) for position, item in enumerate(value))


def _of_wrong_type(text: str, body: bytes, code: str) -> Refused:
    match = _AT.match(text)
    assert match is not None
    path: list[str | int] = [
        name or int(position) for name, position in _PART.findall(match["path"] or "") if name or position
    ]
    message, kind = _sentence(match["message"]), "type_invalid"
    if unknown := _UNKNOWN.search(message):
        path, message, kind = [*path, unknown[1]], "there is no such field", "extra_forbidden"
    elif missing := _MISSING.search(message):
        path, message, kind = [*path, missing[1]], "the field is required", "missing"
    elif "out of range" in message:
        message, kind = "the number is out of range: send it as text", "number_out_of_range"
    if kind in {"missing", "number_out_of_range"}:
        return _refused(code, path, message, kind)
    return _refused(code, path, message, kind, _at(body, path))


def _at(body: bytes, path: list[str | int]) -> Any:
    """Return what stands at `path`; None when that cannot be told, since the rest of the body may be anything."""
    try:
        value = msgspec.json.decode(body)
        for part in path:
            value = value[part]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None
    return value


def _too_deep(code: str) -> Refused:
    return _refused(code, [], f"objects and lists are nested deeper than {DEPTH_MAX}", "too_deep")


def _refused(code: str, path: list[str | int], message: str, kind: str, *value: Any) -> Refused:
    mistake: Mistake = {"loc": ["body", *path], "msg": message, "type": kind}
    if value:
        mistake["input"] = value[0]
    place = ".".join(map(str, path))
    return Refused(code, f"{place}: {message}" if place else message, [mistake])


def _sentence(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]  # JSON stays JSON
