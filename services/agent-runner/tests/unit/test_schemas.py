"""Outputs are judged by the schema's rules, in linear time, and without fetching anything."""

from __future__ import annotations

import msgspec
import pytest

from millrace_agent_runner.domain.schemas import check_output
from millrace_agent_runner.errors import TerminalFailure


def test_a_matching_output_passes() -> None:
    check_output(b'{"type":"object","required":["n"]}', {"n": 1})


def test_the_first_mistakes_are_named_with_their_places() -> None:
    schema = b'{"properties":{"n":{"type":"integer"},"s":{"type":"string"}}}'
    with pytest.raises(TerminalFailure, match=r"output\.n.*output\.s") as failure:
        check_output(schema, {"n": "x", "s": 1})
    assert failure.value.category == "invalid_output"


def test_a_pattern_that_would_backtrack_for_ever_is_answered_at_once() -> None:
    schema = msgspec.json.encode({"type": "string", "pattern": "^(a+)+$"})
    with pytest.raises(TerminalFailure, match="does not match"):
        check_output(schema, "a" * 5_000 + "!")


def test_a_reference_out_of_the_schema_is_not_fetched() -> None:
    with pytest.raises(TerminalFailure, match="Schema is wrong"):
        check_output(b'{"$ref":"http://127.0.0.1:9/schema.json"}', 1)
