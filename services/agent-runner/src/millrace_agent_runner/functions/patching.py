"""From what an agent wants changed to a diff that can be applied, and that says what cannot."""

from __future__ import annotations

import difflib
import re
from typing import Any

from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.functions.project_files import is_inside, read_project

CHANGES_MAX = 200
CONTENT_CHARS_MAX = 512 * 1024


def propose_diff(changes: list[dict[str, Any]], files: dict[str, str]) -> dict[str, Any]:
    """Return the changes as one unified diff: `{"diff", "changed", "rejected"}`. Nothing is written anywhere.

    A change is `{"path", "find", "replace"}`: the one place where `find` stands gets the text `replace`. It is
    rejected, with the reason, when the path is not one of `files`, or `find` stands nowhere or more than once: a model
    that is unsure shall not hit something else.

    Raises:
        TerminalFailure: the changes are not of this form, or there are too many.
    """
    known = read_project(None, files).files
    if not isinstance(changes, list) or len(changes) > CHANGES_MAX:
        raise TerminalFailure(f"`changes` is a list of at most {CHANGES_MAX}", category="input_invalid")
    after = dict(known)
    rejected = []
    for change in changes:
        path, find, replace = _parts(change)
        reason = _why_not(path, find, replace, after)
        if reason is None:
            after[path] = after[path].replace(find, replace)
        else:
            rejected.append({"path": path, "reason": reason})
    changed = [path for path in known if after[path] != known[path]]
    diff = "".join(_diff(path, known[path], after[path]) for path in changed)
    return {"diff": diff, "changed": changed, "rejected": rejected}


def _parts(change: Any) -> tuple[str, str, str]:
    parts = [change.get(name) for name in ("path", "find", "replace")] if isinstance(change, dict) else []
    if len(parts) != 3 or not all(isinstance(part, str) for part in parts):  # noqa: PLR2004  those above
        raise TerminalFailure("a change has the texts path, find and replace", category="input_invalid")
    path, find, replace = parts
    return str(path), str(find), str(replace)


def _why_not(path: str, find: str, replace: str, files: dict[str, str]) -> str | None:
    if not is_inside(path) or path not in files:
        return "there is no such file"
    if not find or len(replace) > CONTENT_CHARS_MAX:
        return "it has nothing to find" if not find else f"the new text is over {CONTENT_CHARS_MAX} characters"
    count = files[path].count(find)
    return None if count == 1 else f"what is to be replaced stands there {count} times, not once"


def _diff(path: str, before: str, after: str) -> str:
    """A unified diff of one file, as `git apply` and `patch -p1` take it."""
    lines = difflib.unified_diff(_lines(before), _lines(after), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """The lines with their ends; `str.splitlines` knows ends that `patch` does not."""
    return [line for line in re.split(r"(?<=\n)", text) if line]
