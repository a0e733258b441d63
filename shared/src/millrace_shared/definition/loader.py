"""Reads a document, YAML 1.2 or JSON, into data that remembers where everything stood.

YAML is parsed by libyaml (22 times faster than the pure Python parsers: 0.1 s instead of 2.4 s for 10,000
steps) and its scalars are resolved here by the core schema of YAML 1.2, so `on`, `no` and `1:30` stay text.
What can make a document mean more than it shows is refused: aliases, anchors, tags, merge keys, duplicate
keys, several documents.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from millrace_shared.definition.data import check_data
from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.limits import NESTING_DEPTH_MAX, PROBLEMS_MAX, SOURCE_BYTES_MAX
from millrace_shared.definition.locations import Location, Position, spell_location

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,60}|[0-9]{1,60}(?:\.[0-9]{0,60})?)(?:[eE][-+]?[0-9]{1,5})?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


class Document:
    """A document as data, with the place of every key and item.

    Attributes:
        data: The JSON value.
        problems: What the loader found wrong; the data is then what is left without it.
    """

    def __init__(self, data: Any, problems: list[Problem], text: str | None = None) -> None:
        self.data = data
        self.problems = problems
        self._text = text
        # Keyed by the identity of a container, which `data` keeps alive: {key or index: (line, column)}.
        self._places: dict[int, dict[str | int, Position]] | None = None

    def keep_places(self, places: dict[int, dict[str | int, Position]]) -> None:
        """Remembers where keys and items stand, by `id()` of their container in `data`."""
        self._places = places

    def position(self, location: Location) -> Position | None:
        """Returns line and column, from 1, of a key or item, or of the nearest part around it."""
        if self._text is None:
            return None
        if self._places is None:
            self._find_places()
        assert self._places is not None
        found: Position = (1, 1)
        value = self.data
        for key in location:
            place = self._places.get(id(value), {}).get(key)
            if place is None:
                break
            found = place
            value = value[key]
        return found

    def _find_places(self) -> None:
        """JSON is read without places, since they are needed for its mistakes only; YAML's parser finds them."""
        assert self._text is not None
        try:
            again = _Builder(self._text).build()
        except (yaml.YAMLError, _Stop):
            self._places = {}  # JSON that is not YAML: tabs as indentation, for one
            return
        self.data, self._places = again.data, again._places  # noqa: SLF001  # the same class


def load(source: str | bytes) -> Document:
    """Reads a document.

    Args:
        source: YAML or JSON, as text or as UTF-8 bytes.

    Raises:
        DefinitionInvalid: It cannot be read at all: too large, too deep, not UTF-8, not YAML.
    """
    text = _decoded(source)
    if text.lstrip().startswith(("{", "[")):
        data = _from_json(text)
        if data is not None:
            return _checked(Document(data, [], text))
    try:
        document = _Builder(text).build()
    except yaml.YAMLError as error:
        raise DefinitionInvalid([_syntax_problem(error)]) from None
    except _Stop as stop:
        raise DefinitionInvalid([stop.problem]) from None
    return _checked(document)


def from_data(data: Any) -> Document:
    """Takes data that was read elsewhere, such as the body of a request.

    Raises:
        DefinitionInvalid: It is too large or too deep, or no JSON.
    """
    document = _checked(Document(data, []))
    if document.problems:
        raise DefinitionInvalid(document.problems)
    return document


def _checked(document: Document) -> Document:
    for location, message in check_data(document.data):
        line, column = document.position(location) or (None, None)
        document.problems.append(Problem(spell_location(location), message, line, column))
    return document


def _decoded(source: str | bytes) -> str:
    if isinstance(source, bytes):
        _check_size(len(source))
        try:
            text = source.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = source.count(b"\n", 0, error.start) + 1
            message = f"byte 0x{source[error.start]:02x} at offset {error.start} is not UTF-8"
            raise DefinitionInvalid([Problem("", message, line, 1, "save the file as UTF-8")]) from None
    else:
        _check_size(len(source))
        _check_size(len(source.encode(errors="replace")))
        text = source.removeprefix("\ufeff")
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        line = text.count("\n", 0, forbidden.start()) + 1
        column = forbidden.start() - text.rfind("\n", 0, forbidden.start())
        name = "NUL" if forbidden.group() == "\x00" else f"control character U+{ord(forbidden.group()):04X}"
        raise DefinitionInvalid([Problem("", f"{name} is not allowed in a definition", line, column)])
    return text


def _check_size(size_bytes: int) -> None:
    if size_bytes > SOURCE_BYTES_MAX:
        message = f"the document has {size_bytes} bytes, and {SOURCE_BYTES_MAX} are allowed"
        hint = "split the workflow, or move data out of the definition into its inputs"
        raise DefinitionInvalid([Problem("", message, suggestion=hint)])


def _from_json(text: str) -> Any:
    """Returns the data, or None if YAML must have a look: flow YAML, or JSON with mistakes to be placed."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


class _Stop(Exception):
    """Carries a finding that ends all reading out of the parser."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Builder:
    """Builds data from the events of the YAML parser."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._problems: list[Problem] = []
        self._places: dict[int, dict[str | int, Position]] = {}

    def build(self) -> Document:
        data = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._report(event, (), "the file holds several documents", "keep one workflow in a file")
                    break
                data = self._value(next(self._events), ())
        document = Document(data, self._problems, self._text)
        document.keep_places(self._places)
        return document

    def _value(self, event: yaml.Event, at: Location) -> Any:
        if len(at) > NESTING_DEPTH_MAX:
            raise _Stop(self._problem(event, at[:4], f"nested deeper than {NESTING_DEPTH_MAX} levels"))
        if isinstance(event, yaml.AliasEvent):
            self._report(event, at, f"aliases (*{event.anchor}) are not allowed", "write the value out")
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent)
        if event.anchor:
            self._report(event, at, f"anchors (&{event.anchor}) are not allowed", "remove it")
        if event.tag and event.tag != "!":
            self._report(event, at, f"tags ({event.tag[:60]}) are not allowed", "quote the value to make it text")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(at)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(at)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event, at)

    def _mapping(self, at: Location) -> dict[str, Any]:
        built: dict[str, Any] = {}
        places: dict[str | int, Position] = {}
        self._places[id(built)] = places
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, at)
            value = self._value(next(self._events), (*at, key))
            if key == "<<":
                self._report(event, at, "merge keys (<<) are not allowed", "write the keys out")
            elif key in built:
                first = places[key][0]
                self._report(event, (*at, key), f"this key is there twice; the first is in line {first}")
            else:
                built[key] = value
                places[key] = _place(event)
        return built

    def _key(self, event: yaml.Event, at: Location) -> str:
        """Keys are text, whatever they look like: `on`, `1` and `null` are names like any other."""
        if not isinstance(event, yaml.ScalarEvent):
            if isinstance(event, yaml.AliasEvent):
                self._report(event, at, f"aliases (*{event.anchor}) are not allowed", "write the key out")
                return f"*{event.anchor}"
            raise _Stop(self._problem(event, at, "a key must be text, not an object or a list"))
        if event.anchor or (event.tag and event.tag != "!"):
            self._report(event, at, "anchors and tags are not allowed", "remove it")
        return str(event.value)

    def _sequence(self, at: Location) -> list[Any]:
        built: list[Any] = []
        places: dict[str | int, Position] = {}
        self._places[id(built)] = places
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            places[len(built)] = _place(event)
            built.append(self._value(event, (*at, len(built))))
        return built

    def _scalar(self, event: yaml.ScalarEvent, at: Location) -> Any:
        text: str = event.value
        if not event.implicit[0] or event.style in {"'", '"', "|", ">"}:
            return text
        if _NOT_FINITE.fullmatch(text):
            self._report(event, at, f"{text} is not a finite number", "quote it if it is text")
            return None
        return _resolved(text)

    def _report(self, event: yaml.Event, at: Location, message: str, suggestion: str | None = None) -> None:
        if len(self._problems) >= PROBLEMS_MAX:
            raise _Stop(self._problem(event, at, f"more than {PROBLEMS_MAX} mistakes; {message}"))
        self._problems.append(self._problem(event, at, message, suggestion))

    def _problem(self, event: yaml.Event, at: Location, message: str, suggestion: str | None = None) -> Problem:
        return Problem(spell_location(at), message, *_place(event), suggestion)


def _resolved(text: str) -> Any:
    """Gives plain text its type by the core schema of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _place(event: yaml.Event) -> Position:
    assert event.start_mark is not None  # events of a parser have one; only those made by hand do not
    return event.start_mark.line + 1, event.start_mark.column + 1


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "it cannot be read"
    context = getattr(error, "context", None)
    message = f"this is not YAML: {what}" + (f" ({context})" if context else "")
    if mark is None:
        return Problem("", message)
    hint = "indent with spaces" if "'\\t'" in str(what) or "\t" in str(what) else None
    return Problem("", message, mark.line + 1, mark.column + 1, hint)
