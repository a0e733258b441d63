"""`python` steps: a function that the operator allows, with the step's input as keyword arguments.

What may be called is decided by three things, all the operator's: module prefixes (MILLRACE_PYTHON_MODULES), names
registered by installed packages (entry points of the group `millrace.functions`), and the functions that ship with the
runner. A function must be defined below an allowed prefix itself: `from subprocess import run` in an allowed module
does not make `run` callable.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, cast

from millrace_agent_runner import functions
from millrace_agent_runner.domain.attempt import Attempt, current
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.executors.threads import Threads

ENTRY_POINT_GROUP = "millrace.functions"
BUILT_IN_PREFIX = "millrace_agent_runner.functions"
BUILT_IN_NAMES: Mapping[str, Callable[..., Any]] = {"echo": functions.echo, "fib": functions.fib}
RESOLVED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called, and how."""

    name: str
    call: Callable[..., Any]
    is_async: bool


class Functions:
    """Finds functions by the name that a definition gives, and remembers them.

    Args:
        prefixes: module prefixes that the operator allows; `acme.jobs` allows `acme.jobs` and all below it.
    """

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self._prefixes = (*prefixes, BUILT_IN_PREFIX)
        self._resolved: dict[str, Function] = {}
        self._registered: dict[str, Any] | None = None

    def resolve(self, name: str) -> Function:
        """Return the function called `name`: `package.module:function`, or a registered name.

        Raises:
            TerminalFailure: it is not allowed, or there is no such function.
        """
        found = self._resolved.get(name)
        if found is None:
            call = self._imported(name) if ":" in name else self._by_name(name)
            found = Function(name, call, inspect.iscoroutinefunction(call))
            if len(self._resolved) < RESOLVED_MAX:
                self._resolved[name] = found
        return found

    def _allows(self, module: str) -> bool:
        return any(module == prefix or module.startswith(prefix + ".") for prefix in self._prefixes)

    def _imported(self, name: str) -> Callable[..., Any]:
        module_name, _, attribute = name.partition(":")
        if not self._allows(module_name):
            message = (
                f'python steps may not call "{name}": add "{module_name}" to MILLRACE_PYTHON_MODULES '
                "in the environment of the agent runner to allow it"
            )
            raise TerminalFailure(message, category="input_invalid", code="function_not_allowed")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise _unknown(name, f"the runner has no module {error.name!r}") from error
        except Exception as error:  # a module may raise anything when it is imported, and it is the author's
            message = f'importing "{module_name}" failed: {type(error).__name__}: {error}'
            raise TerminalFailure(message, category="user_code", code="import_failed") from error
        call = None if attribute.startswith("_") else getattr(module, attribute, None)
        if not callable(call) or isinstance(call, type):
            raise _unknown(name, f'module "{module_name}" has no public function "{attribute}"')
        origin = getattr(call, "__module__", None) or ""
        if not self._allows(origin):
            raise _unknown(name, f'"{attribute}" comes from "{origin}", which is not allowed')
        return cast("Callable[..., Any]", call)

    def _by_name(self, name: str) -> Callable[..., Any]:
        if name in BUILT_IN_NAMES:
            return BUILT_IN_NAMES[name]
        if self._registered is None:
            self._registered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        point = self._registered.get(name)
        if point is None:
            known = ", ".join(sorted({*BUILT_IN_NAMES, *self._registered}))
            raise _unknown(name, f"registered are: {known}; another one is named as package.module:function")
        try:
            call = point.load()
        except Exception as error:  # as above
            message = f'loading the registered function "{name}" failed: {type(error).__name__}: {error}'
            raise TerminalFailure(message, category="user_code", code="import_failed") from error
        if not callable(call):
            raise _unknown(name, "what is registered under it cannot be called")
        return cast("Callable[..., Any]", call)


class PythonExecutor:
    """Performs `python` steps.

    Args:
        functions_: what may be called.
        threads: where functions that block run.
    """

    def __init__(self, functions_: Functions, threads: Threads) -> None:
        self.functions = functions_
        self._threads = threads

    async def __call__(self, attempt: Attempt) -> Any:
        """Call the function.

        Raises:
            StepFailure: it is not allowed, its arguments are wrong, or it raised.
        """
        function = self.functions.resolve(attempt.spec.call)
        arguments = {} if attempt.input is None else attempt.input
        if not isinstance(arguments, dict):
            message = f"the input of a python step is an object of arguments, not {type(arguments).__name__}"
            raise TerminalFailure(message, category="input_invalid")
        current.set(attempt)
        return await self.call(function, arguments)

    async def call(self, function: Function, arguments: dict[str, Any]) -> Any:
        """Call a resolved function with keyword arguments, on the loop or in a thread."""
        try:
            if function.is_async:
                return await function.call(**arguments)
            return await self._threads.run(lambda: function.call(**arguments))
        except StepFailure:
            raise
        except TypeError as error:
            raise _argument_mistake(function, arguments) or _raised(function, error) from error
        except ConnectionError as error:
            message = f'"{function.name}" lost a connection: {type(error).__name__}: {error}'
            raise RetryableFailure(message, category="connection") from error
        except TimeoutError as error:
            message = f'"{function.name}" ran into a time limit of its own: {error}'
            raise RetryableFailure(message, category="timeout", code="user_timeout") from error
        except Exception as error:
            raise _raised(function, error) from error
        except (SystemExit, KeyboardInterrupt) as error:
            raise _raised(function, error) from error


def _raised(function: Function, error: BaseException) -> TerminalFailure:
    message = f'"{function.name}" raised {type(error).__name__}: {error}'
    return TerminalFailure(message, category="user_code", detail={"exception": type(error).__name__})


def _argument_mistake(function: Function, arguments: dict[str, Any]) -> TerminalFailure | None:
    """Tell a call with the wrong arguments from a TypeError inside the function."""
    try:
        inspect.signature(function.call).bind(**arguments)
    except TypeError as error:
        signature = f"{function.name}{inspect.signature(function.call)}"
        message = f"the input of the step does not fit {signature}: {error}"
        return TerminalFailure(message, category="input_invalid", code="arguments_invalid")
    except ValueError:  # no signature to be had
        pass
    return None


def _unknown(name: str, reason: str) -> TerminalFailure:
    message = f'there is no function "{name}" to call: {reason}'
    return TerminalFailure(message, category="input_invalid", code="function_unknown")
