from pathlib import Path

from millrace.cli.files import Checked, in_order_of_use


def checked(name: str, *uses: str) -> Checked:
    return Checked(Path(f"{name}.yaml"), b"", name, uses=frozenset(uses))


def names(*given: Checked) -> list[str | None]:
    return [one.name for one in in_order_of_use(given)]


def test_what_is_used_is_saved_first():
    assert names(checked("a", "b"), checked("b", "c"), checked("c"), checked("d")) == ["c", "d", "b", "a"]


def test_what_is_independent_stays_in_its_order():
    assert names(checked("c"), checked("a", "saved-before"), checked("b")) == ["c", "a", "b"]


def test_those_that_run_one_another_or_themselves_are_all_there():
    assert names(checked("a", "b"), checked("b", "a"), checked("self", "self")) == ["self", "a", "b"]
