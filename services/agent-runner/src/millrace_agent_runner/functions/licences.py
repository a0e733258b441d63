"""What licences a project states, by its files alone, and whether they are among those that are allowed."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec

from millrace_agent_runner.functions.project_files import read_project

FINDINGS_MAX = 500
HEAD_CHARS = 4_000
"""Where a licence's text says what it is, and where a source file says under which it is."""

_HEADER = re.compile(
    r"SPDX-License-Identifier:[ \t]{0,8}([A-Za-z0-9.+()-]{1,60}(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]{1,60}){0,4})"
)
_TEXT_NAMES = ("LICENSE", "LICENCE", "COPYING")

# The first that fits counts: texts of later versions quote earlier ones.
_TEXTS: tuple[tuple[str, str], ...] = (
    ("AGPL-3.0", "gnu affero general public license"),
    ("LGPL-3.0", "gnu lesser general public license"),
    ("GPL-3.0", "gnu general public license version 3"),
    ("GPL-2.0", "gnu general public license version 2"),
    ("Apache-2.0", "apache license version 2.0"),
    ("MPL-2.0", "mozilla public license version 2.0"),
    ("ISC", "permission to use, copy, modify, and/or distribute this software"),
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("BSD-3-Clause", "neither the name of"),
    ("BSD-2-Clause", "redistribution and use in source and binary forms"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
)


def scan_licences(
    directory: str | None = None, files: dict[str, str] | None = None, allowed: list[str] | None = None
) -> dict[str, Any]:
    """Find the licences of a project: `{"files", "licences", "findings", "compliant"}`.

    A licence is `{"path", "licence", "stated_by"}`, by its SPDX name or `unknown`; `stated_by` is `text`, `metadata` or
    `header`. A finding is one that is not `allowed` (none is, unless it is listed), or that the project states none.

    Args:
        directory: see `project_files`.
        files: likewise.
        allowed: SPDX names. `A OR B` is fine when one of them is, `A AND B` when both are.
    """
    project = read_project(directory, files)
    permitted = {name.lower() for name in allowed or ()}
    licences = [found for path, text in project.files.items() for found in _licences_of(path, text)]
    findings = [
        {**found, "rule": "licence-not-allowed", "message": f"{found['licence']} is not among the allowed ones"}
        for found in licences
        if not _is_allowed(found["licence"], permitted)
    ]
    if not any(found["stated_by"] in {"text", "metadata"} for found in licences):
        message = "the project has no file with its licence, and its metadata names none"
        findings.append({"path": "", "licence": "none", "stated_by": "", "rule": "licence-missing", "message": message})
    return {
        "files": len(project.files),
        "licences": licences[:FINDINGS_MAX],
        "findings": findings[:FINDINGS_MAX],
        "compliant": not findings,
    }


def _licences_of(path: str, text: str) -> list[dict[str, str]]:
    name = path.rpartition("/")[2]
    if name.upper().startswith(_TEXT_NAMES):
        return [_licence(path, _by_text(text), "text")]
    stated = _by_metadata(name, text)
    if stated is not None:
        return [_licence(path, stated, "metadata")]
    header = _HEADER.search(text[:HEAD_CHARS])
    return [] if header is None else [_licence(path, header[1], "header")]


def _licence(path: str, licence: str, stated_by: str) -> dict[str, str]:
    return {"path": path, "licence": licence, "stated_by": stated_by}


def _by_text(text: str) -> str:
    words = _words(text)
    return next((name for name, phrase in _TEXTS if _words(phrase) in words), "unknown")


def _words(text: str) -> str:
    """A text without what differs between copies of it: case, commas and lines."""
    return " ".join(text.lower().replace(",", " ").split())


def _by_metadata(name: str, text: str) -> str | None:
    """The licence that a package's own description states; None when it is no such file, or states none."""
    try:
        if name == "pyproject.toml":
            stated = tomllib.loads(text).get("project", {}).get("license")
            stated = stated.get("text") if isinstance(stated, dict) else stated
        elif name == "package.json":
            stated = msgspec.json.decode(text.encode(), type=dict[str, Any]).get("license")
        else:
            return None
    except (ValueError, AttributeError):
        return None
    return stated[:100] if isinstance(stated, str) and stated else None


def _is_allowed(licence: str, permitted: set[str]) -> bool:
    choices = re.split(r" or ", licence.lower().strip("()"))
    return any(
        all(part.partition(" with ")[0].strip("() ") in permitted for part in choice.split(" and "))
        for choice in choices
    )
