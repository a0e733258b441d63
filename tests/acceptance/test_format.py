"""The documentation of the format and the example workflows, run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from millrace_shared.definition.loader import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "workflow-format.md"
MARKED = re.compile(r"^<!-- runs: (?P<outputs>[^\n]*) -->\n```yaml\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
DOCUMENTED = [(match["body"], json.loads(match["outputs"])) for match in MARKED.finditer(PAGE.read_text())]
EXAMPLES = sorted((ROOT / "examples" / "workflows").glob("*.yaml"))
EXPECTED: dict[str, dict[str, Any]] = {
    "approval_flow": {"approved": True, "by": ""},
    "dynamic_plan": {"values": [5, 21, 233], "checked": True},
    "code_review": {"diff": ""},
    "evaluator_optimizer": {"rounds": 3},
    "licence_check": {"compliant": False},
    "nested_for_each": {"busy": ["north", "south"]},
    "security_scan": {"secrets": 1, "weak_dependencies": 3, "told": True},
}
"""What some examples must give; of the others it is enough that they complete."""


def test_the_page_has_examples_that_run() -> None:
    assert len(DOCUMENTED) == PAGE.read_text().count("<!-- runs:") >= 10


@pytest.mark.parametrize("number", range(len(DOCUMENTED)), ids=lambda number: str(sorted(DOCUMENTED[number][1])))
def test_an_example_of_the_page_gives_what_is_written_above_it(millrace: Any, number: int) -> None:
    body, outputs = DOCUMENTED[number]
    detail = millrace.run(millrace.save({"name": f"documented-{number}", **load(body).data}))
    assert (detail["status"], detail["results"]) == ("completed", outputs), detail


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_without_input(millrace: Any, path: Path) -> None:
    detail = millrace.run(millrace.save(load(path.read_bytes()).data))
    assert detail["status"] == "completed", detail
    expected = EXPECTED.get(path.stem, {})
    assert {name: detail["results"][name] for name in expected} == expected
