"""The scans that example agents work with: what they find, what they leave out, and where they may look."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.functions import project_files
from millrace_agent_runner.functions.licences import scan_licences
from millrace_agent_runner.functions.patching import propose_diff
from millrace_agent_runner.functions.project_files import permit, read_project
from millrace_agent_runner.functions.scanning import scan_dependencies, scan_secrets

AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
TOKEN = "ghp_" + "a1B2" * 9


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory that may be scanned."""
    before = project_files._Permission.roots
    project = tmp_path / "project"
    project.mkdir()
    permit((str(project),))
    yield project
    project_files._Permission.roots = before


def rules(report: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    return [(one["rule"], one["path"], one["line"]) for one in report["findings"]]


def test_a_directory_is_read_without_what_is_not_its_own(root: Path) -> None:
    (root / "a.py").write_text("x = 1\n")
    (root / "sub").mkdir()
    (root / "sub" / "b.txt").write_text("b")
    (root / "node_modules").mkdir()
    (root / "node_modules" / "c.js").write_text("c")
    (root / "image.png").write_bytes(b"\x89PNG\0\0")
    (root / "large.txt").write_text("x" * (project_files.FILE_BYTES_MAX + 1))
    outside = root.parent / "outside.txt"
    outside.write_text(AWS_KEY)
    (root / "link.txt").symlink_to(outside)
    (root / "linked").symlink_to(root.parent)
    os.mkfifo(root / "pipe")
    project = read_project(str(root), None)
    assert list(project.files) == ["a.py", "sub/b.txt"]
    assert project.skipped == 4  # neither the linked directory's files, which nobody looked at
    assert project.is_complete
    assert read_project(str(root / "sub"), None).files == {"b.txt": "b"}


@pytest.mark.parametrize("place", ["..", "../outside", "/etc", "link", "missing"])
def test_nothing_else_may_be_read(root: Path, place: str) -> None:
    (root.parent / "outside").mkdir()
    (root / "link").symlink_to(root.parent / "outside")
    with pytest.raises(TerminalFailure) as caught:
        scan_secrets(directory=str(root / place))
    assert caught.value.code == ("directory_unknown" if place == "missing" else "directory_not_permitted")


def test_without_permission_no_directory_may_be_read(root: Path) -> None:
    permit(())
    with pytest.raises(TerminalFailure, match="MILLRACE_SCAN_ROOTS"):
        scan_secrets(directory=str(root))


@pytest.mark.parametrize("given", [{}, {"directory": ""}, {"files": {"a": 1}}, {"files": "a"}])
def test_a_scan_needs_something_to_look_at(given: dict[str, Any]) -> None:
    with pytest.raises(TerminalFailure):
        scan_secrets(**given)


def test_too_much_is_said_to_be_incomplete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "FILES_MAX", 2)
    for number in range(3):
        (root / f"{number}.txt").write_text("x")
    assert scan_secrets(directory=str(root))["complete"] is False
    with pytest.raises(TerminalFailure, match="more than can be scanned"):
        scan_secrets(files={"a": "", "b": "", "c": ""})


def test_secrets_are_found_and_not_shown() -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x"
    report = scan_secrets(
        files={
            "config.py": f'KEY = "{AWS_KEY}"\n\nTOKEN = "{TOKEN}"\npassword = "q8Zr!t2LmX9v"\n',
            "deploy.sh": f"curl -H 'x: {jwt}' postgres://app:hunter22@db/x\n-----BEGIN RSA PRIVATE KEY-----\n",
            "clean.py": 'password = os.environ["PASSWORD"]\ntoken = "aaaaaaaaaaaaaaaa"\nurl = "https://example.com"\n',
        }
    )
    assert sorted(rules(report)) == [
        ("aws-access-key", "config.py", 1),
        ("github-token", "config.py", 3),
        ("json-web-token", "deploy.sh", 1),
        ("named-secret", "config.py", 4),
        ("password-in-url", "deploy.sh", 1),
        ("private-key", "deploy.sh", 2),
    ]
    assert report["by_severity"] == {"low": 0, "medium": 2, "high": 1, "critical": 3}
    assert report["findings"][0]["severity"] == "critical"
    shown = msgspec.json.encode(report).decode()
    assert not any(secret in shown for secret in (AWS_KEY, TOKEN, "q8Zr!t2LmX9v", "hunter22", jwt))


@given(st.text(max_size=3000))
def test_any_text_can_be_scanned(text: str) -> None:
    files = {"a": text, "requirements.txt": text, "pyproject.toml": text, "package.json": text, "LICENSE": text}
    for scan in (scan_secrets, scan_dependencies, scan_licences):
        assert msgspec.json.encode(scan(files=files))


def test_dependencies_are_read_and_compared_with_advisories() -> None:
    advisories = [
        {"ecosystem": "pypi", "name": "Jinja2", "below": "3.1.4", "id": "GHSA-1", "severity": "medium"},
        {"ecosystem": "npm", "name": "left-pad", "below": "1.3.0", "id": "GHSA-2", "severity": "critical"},
    ]
    report = scan_dependencies(
        files={
            "requirements.txt": "# ours\njinja2[i18n]==3.1.2 ; python_version > '3'\nhttpx>=0.28\n-r more.txt\nfree\n",
            "pyproject.toml": '[project]\ndependencies = ["jinja2==3.1.4", "tool @ git+https://example.com/tool"]\n',
            "web/package.json": '{"dependencies": {"left-pad": "1.2.9", "react": "^18"}, "devDependencies": {"x": ""}}',
            "old/package.json": "{",
        },
        advisories=advisories,
    )
    assert [(one["ecosystem"], one["name"], one["version"]) for one in report["dependencies"]] == [
        ("pypi", "jinja2", "3.1.4"),
        ("pypi", "tool", None),
        ("pypi", "jinja2", "3.1.2"),
        ("pypi", "httpx", None),
        ("pypi", "free", None),
        ("npm", "left-pad", "1.2.9"),
        ("npm", "react", None),
        ("npm", "x", None),
    ]
    found = {(one["rule"], one["path"]): one["message"] for one in report["findings"]}
    assert found.keys() == {
        ("known-vulnerability", "requirements.txt"),
        ("known-vulnerability", "web/package.json"),
        ("dependency-not-pinned", "requirements.txt"),
        ("dependency-not-pinned", "web/package.json"),
        ("dependency-unbounded", "requirements.txt"),
        ("dependency-unbounded", "web/package.json"),
        ("dependency-by-address", "pyproject.toml"),
        ("unreadable-manifest", "old/package.json"),
    }
    assert found["known-vulnerability", "requirements.txt"] == "jinja2 3.1.2 is affected by GHSA-1; 3.1.4 is not"


@pytest.mark.parametrize(("version", "is_affected"), [("1.9", True), ("1.10", False), ("1.10.0", False), ("2", False)])
def test_versions_are_compared_by_their_numbers(version: str, is_affected: bool) -> None:
    advisory = {"ecosystem": "pypi", "name": "a", "below": "1.10", "id": "X"}
    report = scan_dependencies(files={"requirements.txt": f"a=={version}"}, advisories=[advisory])
    assert bool(report["findings"]) == is_affected


@pytest.mark.parametrize("advisory", [{"name": "a"}, {"ecosystem": "pypi", "name": "a", "below": 1, "id": "X"}])
def test_an_advisory_that_is_none_is_refused(advisory: Any) -> None:
    with pytest.raises(TerminalFailure, match="an advisory has"):
        scan_dependencies(files={}, advisories=[advisory])


MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any\nperson obtaining a copy of this software"
APACHE = "                                 Apache License\n                           Version 2.0, January 2004\n"


def test_licences_are_found_by_text_metadata_and_header() -> None:
    report = scan_licences(
        files={
            "LICENSE": APACHE,
            "vendor/a/LICENSE.txt": MIT,
            "vendor/b/COPYING": "All rights reserved.",
            "package.json": '{"license": "MIT OR GPL-3.0"}',
            "src/a.py": "# SPDX-License-Identifier: GPL-2.0\n",
            "src/b.py": "pass\n",
        },
        allowed=["MIT", "Apache-2.0"],
    )
    assert [(one["path"], one["licence"], one["stated_by"]) for one in report["licences"]] == [
        ("LICENSE", "Apache-2.0", "text"),
        ("package.json", "MIT OR GPL-3.0", "metadata"),
        ("src/a.py", "GPL-2.0", "header"),
        ("vendor/a/LICENSE.txt", "MIT", "text"),
        ("vendor/b/COPYING", "unknown", "text"),
    ]
    assert [(one["path"], one["licence"]) for one in report["findings"]] == [
        ("src/a.py", "GPL-2.0"),
        ("vendor/b/COPYING", "unknown"),
    ]
    assert report["compliant"] is False


def test_this_projects_own_licence_is_known() -> None:
    text = (Path(__file__).parents[4] / "LICENSE").read_text()
    report = scan_licences(files={"LICENSE": text}, allowed=["Apache-2.0"])
    assert report["compliant"] is True


def test_a_project_without_a_licence_is_not_compliant() -> None:
    assert [one["rule"] for one in scan_licences(files={"a.py": ""})["findings"]] == ["licence-missing"]


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [("MIT AND ISC", False), ("MIT AND Apache-2.0", True), ("(GPL-3.0 OR MIT)", True), ("mit", True), ("GPL", False)],
)
def test_combined_licences(licence: str, is_allowed: bool) -> None:
    files = {"package.json": msgspec.json.encode({"license": licence}).decode()}
    assert scan_licences(files=files, allowed=["MIT", "Apache-2.0"])["compliant"] == is_allowed


def test_changes_become_a_diff_and_what_cannot_be_is_said() -> None:
    files = {"a.py": "one\ntwo\nthree", "b.py": "same\nsame\n"}
    result = propose_diff(
        [
            {"path": "a.py", "find": "two", "replace": "2"},
            {"path": "b.py", "find": "same", "replace": "other"},
            {"path": "../etc/passwd", "find": "root", "replace": "me"},
            {"path": "a.py", "find": "four", "replace": "4"},
            {"path": "a.py", "find": "", "replace": "x"},
        ],
        files,
    )
    assert result["changed"] == ["a.py"]
    assert result["diff"].splitlines()[:2] == ["--- a/a.py", "+++ b/a.py"]
    assert [one["reason"] for one in result["rejected"]] == [
        "what is to be replaced stands there 2 times, not once",
        "there is no such file",
        "what is to be replaced stands there 0 times, not once",
        "it has nothing to find",
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_diff_can_be_applied(tmp_path: Path) -> None:
    files = {"a.txt": "one\ntwo\u2028still two\nthree\n", "b/c.txt": "no end"}
    changes = [
        {"path": "a.txt", "find": "still", "replace": "yet"},
        {"path": "a.txt", "find": "one\n", "replace": ""},
        {"path": "b/c.txt", "find": "no", "replace": "an"},
    ]
    result = propose_diff(changes, files)
    (tmp_path / "b").mkdir()
    for path, text in files.items():
        (tmp_path / path).write_bytes(text.encode())
    subprocess.run(["git", "apply", "-"], input=result["diff"].encode(), cwd=tmp_path, check=True)
    assert (tmp_path / "a.txt").read_bytes().decode() == "two\u2028yet two\nthree\n"
    assert (tmp_path / "b" / "c.txt").read_text() == "an end"


@pytest.mark.parametrize("changes", ["x", [{"path": "a"}], [{"path": "a", "find": "b", "replace": 1}], [1], [{}] * 201])
def test_changes_that_are_none_are_refused(changes: Any) -> None:
    with pytest.raises(TerminalFailure):
        propose_diff(changes, {"a": "b"})
