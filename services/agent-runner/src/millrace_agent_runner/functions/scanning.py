"""Scans of a project for secrets and for dependencies, with no network and no model: what agents then judge.

Each takes a `directory` that the operator permits, or `files`; see `project_files`. A finding is
`{"rule", "severity", "path", "line", "message"}`, and `severity` is `low`, `medium`, `high` or `critical`. What was
found is never shown whole: results are stored, and others read them.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.functions.project_files import Project, read_project

FINDINGS_MAX = 500
DEPENDENCIES_MAX = 5_000
LINE_CHARS_MAX = 2_000
SHOWN_CHARS = 4
ENTROPY_BITS_MIN = 3.2
"""Of each character, for a value that is called a secret: `changeme` has less, a random one more."""

Finding = dict[str, Any]
SEVERITIES = ("low", "medium", "high", "critical")


class _Secret(NamedTuple):
    rule: str
    severity: str
    pattern: re.Pattern[str]


# Every repetition is bounded, and lines are: what a hostile file can cost is, too.
_SECRETS = (
    _Secret("aws-access-key", "critical", re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b")),
    _Secret("github-token", "critical", re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36,255})\b")),
    _Secret("slack-token", "high", re.compile(r"\b(xox[abprs]-[A-Za-z0-9-]{10,250})\b")),
    _Secret("google-api-key", "high", re.compile(r"\b(AIza[0-9A-Za-z_-]{35})\b")),
    _Secret("provider-api-key", "critical", re.compile(r"\b((?:sk|gsk)[-_][A-Za-z0-9_-]{20,200})\b")),
    _Secret("private-key", "critical", re.compile(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)")),
    _Secret("json-web-token", "medium", re.compile(r"\b(eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000})\b")),
    _Secret("password-in-url", "high", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,100}:([^\s:/@]{4,200})@")),
)
_NAMED = re.compile(
    r"(?i)(?:password|passwd|secret|token|api_?key)[\"']?[ \t]{0,8}[=:][ \t]{0,8}[\"']([^\"'\s]{12,200})[\"']"
)


def scan_secrets(directory: str | None = None, files: dict[str, str] | None = None) -> dict[str, Any]:
    """Look for credentials: `{"files", "skipped", "complete", "findings", "by_severity"}`."""
    project = read_project(directory, files)
    findings: list[Finding] = []
    for path, text in project.files.items():
        findings += _secrets_of(path, text)
        if len(findings) >= FINDINGS_MAX:
            break
    return _report(project, findings)


def scan_dependencies(
    directory: str | None = None,
    files: dict[str, str] | None = None,
    advisories: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Read what a project depends on, and compare it with known weaknesses.

    `requirements*.txt`, `pyproject.toml` and `package.json` are read. An advisory is `{"ecosystem", "name", "below",
    "id", "severity"}`: versions below `below` are affected. They are given, since a scan asks nobody.

    Returns:
        What `scan_secrets` returns, and `dependencies`: `{"ecosystem", "name", "version", "spec", "path"}`, where
        `version` is null unless it is pinned.
    """
    project = read_project(directory, files)
    known = _known(advisories or [])
    dependencies: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for path, text in project.files.items():
        read, broken = _dependencies_of(path, text)
        findings += broken
        dependencies += read[: DEPENDENCIES_MAX - len(dependencies)]
    for dependency in dependencies:
        findings += _judged(dependency, known)
    return {**_report(project, findings), "dependencies": dependencies}


def _report(project: Project, findings: list[Finding]) -> dict[str, Any]:
    shown = sorted(findings, key=lambda one: -SEVERITIES.index(one["severity"]))[:FINDINGS_MAX]
    counted = Counter(finding["severity"] for finding in findings)
    return {
        "files": len(project.files),
        "skipped": project.skipped,
        "complete": project.is_complete and len(findings) < FINDINGS_MAX,
        "findings": shown,
        "by_severity": {severity: counted[severity] for severity in SEVERITIES},
    }


def _finding(rule: str, severity: str, path: str, line: int | None, message: str) -> Finding:
    return {"rule": rule, "severity": severity, "path": path, "line": line, "message": message}


def _secrets_of(path: str, text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        shortened = line[:LINE_CHARS_MAX]
        is_known = False
        for secret in _SECRETS:
            for match in secret.pattern.finditer(shortened):
                is_known = True
                yield _finding(secret.rule, secret.severity, path, number, f"begins with {_masked(match[1])}")
        if not is_known:
            for match in _NAMED.finditer(shortened):
                if _entropy_bits(match[1]) >= ENTROPY_BITS_MIN:
                    yield _finding(
                        "named-secret", "medium", path, number, f"a value that begins with {_masked(match[1])}"
                    )


def _masked(value: str) -> str:
    return f"{value[:SHOWN_CHARS]}… ({len(value)} characters)"


def _entropy_bits(text: str) -> float:
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())


_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]{0,100})\s*(?:\[[^\]]{0,200}\])?\s*([^;#]{0,200})")


def _dependencies_of(path: str, text: str) -> tuple[list[dict[str, Any]], list[Finding]]:
    name = path.rpartition("/")[2]
    try:
        if name == "pyproject.toml":
            return _of_pyproject(path, text), []
        if name == "package.json":
            return _of_package_json(path, text), []
    except (ValueError, TypeError, AttributeError) as error:
        return [], [_finding("unreadable-manifest", "low", path, None, f"it cannot be read: {type(error).__name__}")]
    if name.startswith("requirements") and name.endswith(".txt"):
        return _of_requirements(path, text.splitlines()), []
    return [], []


def _of_requirements(path: str, lines: list[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and not line.lstrip().startswith(("-", "#")):
            spec = match[2].strip()
            pinned = spec[2:].split()[0] if spec.startswith("==") and "," not in spec and len(spec) > 2 else None  # noqa: PLR2004
            found.append(_dependency("pypi", re.sub(r"[-_.]+", "-", match[1]).lower(), pinned, spec, path))
    return found


def _of_pyproject(path: str, text: str) -> list[dict[str, Any]]:
    project = tomllib.loads(text).get("project", {})
    listed = [*project.get("dependencies", [])]
    for extra in project.get("optional-dependencies", {}).values():
        listed += extra
    return _of_requirements(path, [str(one) for one in listed])


def _of_package_json(path: str, text: str) -> list[dict[str, Any]]:
    package = msgspec.json.decode(text.encode(), type=dict[str, Any])
    found = []
    for kind in ("dependencies", "devDependencies", "optionalDependencies"):
        for name, spec in (package.get(kind) or {}).items():
            pinned = spec if re.fullmatch(r"\d+\.\d+\.\d+\S{0,50}", str(spec)) else None
            found.append(_dependency("npm", name, pinned, str(spec), path))
    return found


def _dependency(ecosystem: str, name: str, version: str | None, spec: str, path: str) -> dict[str, Any]:
    return {"ecosystem": ecosystem, "name": name[:200], "version": version, "spec": spec[:200], "path": path}


def _known(advisories: list[dict[str, str]]) -> dict[tuple[str, str], list[dict[str, str]]]:
    known: dict[tuple[str, str], list[dict[str, str]]] = {}
    for advisory in advisories:
        lacking = [key for key in ("ecosystem", "name", "below", "id") if not isinstance(advisory.get(key), str)]
        if lacking or advisory.get("severity", "high") not in SEVERITIES:
            message = f"an advisory has ecosystem, name, below, id and a severity of {', '.join(SEVERITIES)}"
            raise TerminalFailure(message, category="input_invalid")
        known.setdefault((advisory["ecosystem"], advisory["name"].lower()), []).append(advisory)
    return known


def _judged(dependency: dict[str, Any], known: dict[tuple[str, str], list[dict[str, str]]]) -> Iterator[Finding]:
    name, version, spec, path = (dependency[key] for key in ("name", "version", "spec", "path"))
    if "://" in spec or spec.startswith(("git", "@ ", "file:")):
        yield _finding("dependency-by-address", "medium", path, None, f"{name} comes from an address, not a registry")
    elif spec in {"", "*", "latest"}:
        yield _finding("dependency-unbounded", "medium", path, None, f"{name} may be any version")
    elif version is None:
        yield _finding("dependency-not-pinned", "low", path, None, f"{name} is not pinned: {spec}")
    for advisory in known.get((dependency["ecosystem"], name.lower()), ()):
        if version is not None and _release(version) < _release(advisory["below"]):
            severity = advisory.get("severity", "high")
            message = f"{name} {version} is affected by {advisory['id']}; {advisory['below']} is not"
            yield _finding("known-vulnerability", severity, path, None, message)


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros at their end; whatever follows them is passed over."""
    match = re.match(r"\s*v?(\d{1,9}(?:\.\d{1,9}){0,9})", version)
    numbers = [int(part) for part in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
