"""`validate` and `schema`: they need no server."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millrace.cli.main import app
from millrace.examples import example_files

GOOD = "name: good\nsteps:\n  a: {transform: 1}\n"
BAD = "name: bad\nsteps:\n  load: {transform: 1}\n  end:\n    needs: [laod]\n    transform: ${{ inputs.x }}\n"


def test_every_example_is_valid():
    ran = CliRunner().invoke(app, ["validate", *map(str, example_files())])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.count(": ok (") == len(example_files()) == 15


def test_every_mistake_of_every_file_with_its_place(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "good.yml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("not a definition")
    ran = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert ran.exit_code == 1
    assert ran.stdout == f"{tmp_path}/good.yml: ok (good)\n"
    first, second = ran.stderr.splitlines()
    assert first.startswith(f'{tmp_path}/bad.yaml:5:13: steps.end.needs[0]: there is no step "laod"')
    assert first.endswith('did you mean "load"?')
    assert second.startswith(f"{tmp_path}/bad.yaml:6:5: steps.end.transform: ")


def test_for_programs(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text(BAD)
    ran = CliRunner().invoke(app, ["validate", "--json", str(tmp_path / "bad.yaml")])
    assert ran.exit_code == 1
    [report] = json.loads(ran.stdout)
    assert report["valid"] is False
    assert [(error["path"], error["line"]) for error in report["errors"]] == [
        ("steps.end.needs[0]", 5),
        ("steps.end.transform", 6),
    ]


def test_standard_input():
    assert CliRunner().invoke(app, ["validate", "-"], input=GOOD).stdout == "-: ok (good)\n"


@pytest.mark.parametrize("name", ["absent.yaml", "empty"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    ran = CliRunner().invoke(app, ["validate", str(tmp_path / name)])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("millrace: ")
    assert str(tmp_path / name) in ran.stderr
    assert "Traceback" not in ran.output


def test_the_schema_is_one():
    from jsonschema import Draft202012Validator

    ran = CliRunner().invoke(app, ["schema"])
    schema = json.loads(ran.stdout)
    Draft202012Validator.check_schema(schema)
    assert not list(Draft202012Validator(schema).iter_errors({"name": "w", "steps": {"a": {"transform": 1}}}))


def test_the_version_is_that_of_the_package():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"millrace {version('millrace')}\n"
