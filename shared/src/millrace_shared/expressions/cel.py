"""The only module that knows CEL: compiling and evaluating through `cel-expr-python`.

Its habits, which nothing outside this module has to know: evaluation errors come back as values of type
ERROR; compile errors are RuntimeError with several lines of text; timestamps, durations, bytes and types
are values, too.
"""

import datetime as dt
import math
import re
from functools import cache, lru_cache
from typing import Any

from millrace_shared.expressions.errors import ExpressionError, ExpressionInvalid
from millrace_shared.expressions.limits import RESULT_BYTES_MAX
from millrace_shared.expressions.program import Program
from millrace_shared.expressions.references import MACROS, analyse
from millrace_shared.expressions.suggest import did_you_mean

MISSING_KEY = "there is no key"
"""How the reason begins when an object lacks a key."""

FUNCTIONS = (
    *("bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"),
    *("contains", "endsWith", "has", "matches", "size", "startsWith"),
    *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getMonth"),
    *("getHours", "getMilliseconds", "getMinutes", "getSeconds"),
)
"""The functions of standard CEL, for suggestions."""

_COMPILE_ERROR = re.compile(r"<input>:(-?\d+):(-?\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '(?:[^']*\.)?\(?([^')]*)\)?'")
_RUNTIME_OVERLOAD = re.compile(r"No matching overloads found : (\S+?)\(([^)]*)\)")
_KEY_NOT_FOUND = re.compile(r"Key not found in map : (.*)")
_CODE = re.compile(r"^[A-Z_]+: ")
_TYPES = {"null_type": "null", "int64": "int", "uint64": "uint", "*error*": "error"}
_RESULT_ITEM_BYTES = 4


@cache
def _environment() -> Any:
    from cel_expr_python import cel  # a C++ library of 10 MB: loaded by who evaluates, not by who imports

    kind = cel.Type
    fields = kind.Map(kind.STRING, kind.DYN)
    return cel.NewEnv(
        variables={
            "inputs": fields,
            "steps": kind.Map(kind.STRING, fields),
            "item": kind.DYN,
            "index": kind.INT,
            "iteration": kind.INT,
            "previous": kind.DYN,
            "output": kind.DYN,
            "execution": fields,
            "workflow": fields,
            "event": kind.DYN,
            "trigger": fields,
        }
    )


@lru_cache(maxsize=16_384)
def _compiled(text: str) -> Any:
    return _environment().compile(text)


def compile_program(source: str) -> Program:
    """Compiles a CEL expression.

    Raises:
        ExpressionInvalid: It is not CEL, its types do not fit, or it uses names that do not exist.
    """
    program = analyse(source)
    try:
        _compiled(program.text)
    except (RuntimeError, ValueError, UnicodeError) as error:
        raise _explained(source, str(error)) from None
    return program


def check_boolean(program: Program) -> None:
    """Checks that a program can give true or false.

    Raises:
        ExpressionInvalid: Its type is known, and another.
    """
    kind = _compiled(program.text).return_type().name()
    if kind not in {"BOOL", "DYN"}:
        raise ExpressionInvalid(program.source, f"a condition must be true or false, and this is {kind.lower()}")


def evaluate_here(program: Program, variables: dict[str, Any]) -> Any:
    """Evaluates a program in this process, without bounds on time and memory: see `evaluators.py`.

    Raises:
        ExpressionError: It has no value, or one that is not JSON.
    """
    try:
        result = _compiled(program.text).eval(data=variables)
        kind = result.type().name()
        if kind in {"ERROR", "UNKNOWN"}:
            raise ExpressionError(program.source, _reason(str(result.value())))
        return _Jsonified(program.source).value(result)
    except (RuntimeError, ValueError, TypeError, OverflowError, UnicodeError) as error:
        raise ExpressionError(program.source, _reason(str(error))) from None


def _explained(source: str, text: str) -> ExpressionInvalid:
    """Turns CEL's report into one sentence about the expression as its author sees it."""
    match = _COMPILE_ERROR.search(text)
    message = match.group(3) if match else text.splitlines()[0] if text else "not an expression"
    message = message.removesuffix(" [INVALID_ARGUMENT]")
    undeclared = _UNDECLARED.search(message)
    if undeclared:
        name = undeclared.group(1)
        known = (*FUNCTIONS, *MACROS)
        return ExpressionInvalid(source, f'there is no function or name "{name}"', did_you_mean(name, known))
    overload = _OVERLOAD.search(message)
    if overload:
        return ExpressionInvalid(source, _no_overload(overload.group(1), overload.group(2)))
    if "max recursion depth" in message:
        return ExpressionInvalid(source, "the expression is nested too deep", "move the work into a python step")
    if "Syntax error" in message or "unsupported syntax" in message:
        found = re.search(r"(?:mismatched|at|extraneous|recognition error at:?) (?:input )?'([^']*)'", message)
        at = "the end" if not found or found.group(1) == "<EOF>" else f'"{found.group(1)}"'
        return ExpressionInvalid(source, f"this is not an expression: it goes wrong at {at}")
    return ExpressionInvalid(source, message)


def _no_overload(function: str, types: str) -> str:
    operator = re.fullmatch(r"_?(\W+)_?", function)
    name = {"_?_:_": "?:", "_[_]": "[]"}.get(function, operator.group(1) if operator else function)
    operands = " and ".join(_TYPES.get(kind.strip(), kind.strip()) for kind in types.split(","))
    return f"{name} cannot be applied to {operands}"


def _reason(text: str) -> str:
    """Turns the text of a CEL error value into a reason."""
    text = _CODE.sub("", text)
    key = _KEY_NOT_FOUND.search(text)
    if key:
        return f"{MISSING_KEY} {key.group(1)[:100]}"
    overload = _RUNTIME_OVERLOAD.search(text)
    if overload:
        reason = _no_overload(overload.group(1), overload.group(2))
        mixed = {"int", "double"} <= set(re.findall(r"\w+", reason))
        return reason + ("; wrap the int in double(...)" if mixed else "")
    if "Applying SELECT to non-message type" in text:
        return "a field is read of something that is not an object"
    return text[:300]


class _Jsonified:
    """Turns CEL values into JSON values, and counts their size.

    CEL's own conversion gives away a reference to None that it does not own, each time that it converts a null.
    Before Python 3.12 that ends the process once None has no references left, after some thousand nulls: so null
    is told by its type, and containers are taken apart here, never with `plain_value()`.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._left_bytes = RESULT_BYTES_MAX

    def value(self, value: Any) -> Any:
        """Returns the JSON value of a `cel.Value`."""
        kind = value.type().name()
        self._take(_RESULT_ITEM_BYTES)
        if kind == "NULL":
            return None
        plain = value.value()
        if isinstance(plain, list):
            return [self.value(item) for item in plain]
        if isinstance(plain, dict):
            return {self._key(key): self.value(item) for key, item in plain.items()}
        return self._scalar(plain, kind)

    def _scalar(self, plain: Any, kind: str) -> Any:
        if isinstance(plain, str) and kind == "STRING":
            self._take(len(plain))
            return plain
        if isinstance(plain, bool | int):
            return plain
        if isinstance(plain, float):
            if math.isfinite(plain):
                return plain
            raise ExpressionError(self._source, "its value is not a finite number")
        if isinstance(plain, dt.datetime):
            return plain.isoformat().replace("+00:00", "Z")
        if isinstance(plain, dt.timedelta):
            return plain.total_seconds()
        raise ExpressionError(self._source, f"its value is of type {kind.lower()}, which JSON does not have")

    def _take(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ExpressionError(self._source, f"its value is larger than {RESULT_BYTES_MAX} bytes")

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise ExpressionError(self._source, "an object has keys that are not text; wrap them in string(...)")
        self._take(len(key))
        return key


@lru_cache(maxsize=64)
def _typed_environment(types: tuple[tuple[str, str], ...]) -> Any:
    """Returns an environment that knows the types of inputs; number is unknown, as JSON's are int or double."""
    from cel_expr_python import cel

    kind = cel.Type
    known = {
        "string": kind.STRING,
        "boolean": kind.BOOL,
        "integer": kind.INT,
        "array": kind.List(kind.DYN),
        "object": kind.Map(kind.STRING, kind.DYN),
    }
    fields = kind.Map(kind.STRING, kind.DYN)
    variables = {f"inputs.{name}": known[declared] for name, declared in types if declared in known}
    names = ("inputs", "execution", "workflow")
    return cel.NewEnv(
        variables={
            **dict.fromkeys(names, fields),
            "steps": kind.Map(kind.STRING, fields),
            "item": kind.DYN,
            "index": kind.INT,
            "iteration": kind.INT,
            "previous": kind.DYN,
            "output": kind.DYN,
            **variables,
        }
    )


def check_types(program: Program, types: tuple[tuple[str, str], ...], *, is_condition: bool) -> None:
    """Checks a program again, with the types of inputs known.

    Args:
        program: A program that compiles without them.
        types: Pairs of input name and JSON Schema type.
        is_condition: Whether it must give true or false.

    Raises:
        ExpressionInvalid: An operator or function does not take an input's type.
    """
    plain = tuple((name, kind) for name, kind in types if name.isidentifier() and name.isascii())
    try:
        expression = _typed_environment(plain).compile(program.text)
    except (RuntimeError, ValueError) as error:
        raise _explained(program.source, str(error)) from None
    kind = expression.return_type().name()
    if is_condition and kind not in {"BOOL", "DYN"}:
        raise ExpressionInvalid(program.source, f"a condition must be true or false, and this is {kind.lower()}")
