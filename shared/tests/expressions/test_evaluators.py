import os
import resource
import signal
import sys
import threading
from typing import Any, Self

import pytest

from millrace_shared.expressions.cel import evaluate_here
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.evaluators import BoundedEvaluator, ChildEvaluator, LocalEvaluator
from millrace_shared.expressions.expression import compile_expression
from millrace_shared.expressions.program import Program

SCOPE = {"inputs": {"rows": [1, 2, 3], "text": "abc"}}


def program(text: str) -> Program:
    compiled = compile_expression(text).program
    assert compiled is not None
    return compiled


def doubling(times: int) -> str:
    """A list that doubles with every macro: 2^times items from some bytes of text."""
    text = "[1, 1]"
    for _ in range(times):
        text = f"[0, 1].map(x, {text})"
    return text


@pytest.mark.parametrize(
    "text",
    ["inputs.rows.map(r, r * 2)", "inputs.rows.filter(r, r > 1)", "size(inputs.text)", "{'a': [1.5, null, true]}"],
)
def test_child_and_local_agree(text: str, evaluator: BoundedEvaluator):
    compiled = program(text)
    assert evaluator.evaluate(compiled, SCOPE) == LocalEvaluator().evaluate(compiled, SCOPE)


HOSTILE = {
    "nested lists": doubling(25),
    "list doubled many times": "[inputs.rows]" + ".map(a, a + a)" * 28,
    "text doubled many times": "[inputs.text]" + ".map(a, a + a)" * 28,
    "text beyond the memory limit": f"size(['{'x' * 200}']{'.map(a, a + a)' * 23}[0]) > 0",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_growth_is_contained_and_the_next_expression_works(name: str, evaluator: BoundedEvaluator):
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ExpressionError, match=r"memory|budget|larger|takes longer"):
        evaluator.evaluate(program(HOSTILE[name]), SCOPE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000
    assert evaluator.evaluate(program("inputs.rows.map(r, r + 1)"), SCOPE) == [2, 3, 4]


def test_time_is_contained():
    rows = list(range(1_000))
    variables = {"inputs": {"rows": rows}}
    slow = program(
        "inputs.rows.map(a, a).map(b, b).map(c, c).size() > 0 && inputs.rows.all(a, inputs.rows.all(b, a + b >= 0))"
    )
    with ChildEvaluatorOpen(timeout_s=0.001) as child:
        with pytest.raises(ExpressionError, match=r"takes longer than 0\.001 s"):
            child.evaluate(slow, variables)
        assert child.process_is_gone()


def test_a_killed_child_is_replaced():
    with ChildEvaluatorOpen() as child:
        compiled = program("inputs.rows.map(r, r)")
        assert child.evaluate(compiled, SCOPE) == [1, 2, 3]
        os.kill(child.pid(), signal.SIGKILL)
        child.wait()
        assert child.evaluate(compiled, SCOPE) == [1, 2, 3]


def test_the_child_inherits_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-children")
    with ChildEvaluatorOpen() as child:
        child.evaluate(program("1 + 1"), {})
        with open(f"/proc/{child.pid()}/environ", "rb") as environ:  # noqa: PTH123
            assert b"not-for-children" not in environ.read()


def test_closing_ends_the_child():
    child = ChildEvaluatorOpen()
    child.evaluate(program("1 + 1"), {})
    pid = child.pid()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_lists_under_macros_are_bounded(evaluator: BoundedEvaluator):
    variables = {"inputs": {"rows": [0] * 1_001}}
    with pytest.raises(ExpressionError, match="1001 items, and macros are limited to 1000"):
        evaluator.evaluate(program("inputs.rows.exists(r, r == 1)"), variables)
    assert evaluator.evaluate(program("size(inputs.rows)"), variables) == 1_001


def test_results_are_bounded(evaluator: BoundedEvaluator):
    variables = {"inputs": {"text": "x" * 600_000}}
    with pytest.raises(ExpressionError, match="larger than"):
        evaluator.evaluate(program("inputs.text + inputs.text"), variables)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("b'abc'", "JSON does not have"), ("{1: 2}", "keys that are not text"), ("1.0 / 0.0", "not a finite number")],
)
def test_values_are_json(text: str, reason: str, evaluator: BoundedEvaluator):
    with pytest.raises(ExpressionError, match=reason):
        evaluator.evaluate(program(text), {})


@pytest.mark.parametrize(
    "text", ["null", "[null, null]", "{'a': {'b': null}}", "dyn(inputs.none)", "inputs.none == null"]
)
def test_nulls_do_not_use_up_none(text: str):
    compiled, variables = program(text), {"inputs": {"none": None}}
    evaluate_here(compiled, variables)
    before = sys.getrefcount(None)
    for _ in range(500):
        evaluate_here(compiled, variables)
    assert abs(sys.getrefcount(None) - before) < 250  # other threads of the interpreter move it a little


def test_threads_share_an_evaluator(evaluator: BoundedEvaluator):
    compiled = program("inputs.rows.map(r, r + index)")
    answers: dict[int, Any] = {}

    def work(index: int) -> None:
        for _ in range(20):
            answers[index] = evaluator.evaluate(compiled, {"inputs": {"rows": [0, 1]}, "index": index})

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {index: [index, index + 1] for index in range(4)}


class ChildEvaluatorOpen(ChildEvaluator):
    """A child evaluator whose process a test may look at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=60)

    def process_is_gone(self) -> bool:
        return self._process is None
