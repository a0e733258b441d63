"""What is allowed, and probably not meant."""

from __future__ import annotations

from millrace_shared.definition.validation import validate


def test_a_budget_is_said_to_be_unheeded() -> None:
    document = {"name": "w", "limits": {"max_cost_usd": 1.0}, "steps": {"a": {"transform": 1}}}
    (warning,) = validate(document).warnings
    assert (warning.path, "does not stop" in warning.message) == ("limits.max_cost_usd", True)
