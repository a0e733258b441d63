import pytest

from millrace_shared.expressions.condition import compile_condition
from millrace_shared.expressions.errors import BlobNeeded, ExpressionError, ExpressionInvalid
from millrace_shared.expressions.evaluators import BoundedEvaluator
from millrace_shared.values import BlobRef

REF = BlobRef("a" * 64, 70_000)
SCOPE = {
    "inputs": {"n": 3, "yes": True, "big": 2**70},
    "steps": {
        "my-step": {"output": {"score": 1, "rows": [{"c": 1}, None], "if": 1, "in": 2}, "status": "completed"},
        "skipped": {"output": None, "status": "skipped", "error": None},
        "blob": {"output": {"small": 1, "large": REF}, "status": "completed", "error": None},
    },
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inputs.yes", True),
        ("inputs.n > 2 && inputs.n < 3.5", True),
        ("steps.my-step.status == 'completed'", True),
        ("steps.my-step.output.score > 0.5", True),
        ("steps.my-step.output.rows.exists(r, r != null && r.c == 1)", True),
        ("steps.my-step.output.in == 2 && steps.my-step.output.if == 1", True),
        ("steps.skipped.output == null", True),
        ("steps.skipped.output.score == null", True),
        ("steps.skipped.output != null && steps.skipped.output.score > 1", False),
        ("has(steps.skipped.output.score)", False),
        ("has(steps.my-step.output.score) && !has(steps.my-step.output.nope)", True),
        ("steps.blob.output.small == 1", True),
        ("inputs.n in [1, 2, 3]", True),
        ("'a}}b'.contains('}}')", True),
    ],
)
def test_holds_or_not(text: str, expected: bool, evaluator: BoundedEvaluator):
    assert compile_condition(text).test(SCOPE, evaluator.evaluate) is expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("inputs.n", "a condition must be true or false, and this is a number"),
        ("steps.skipped.output.score > 3", "> cannot be applied to null and int"),
        (
            "steps.my-step.output.score + 0.5 > 1.0",
            "+ cannot be applied to int and double; wrap the int in double(...)",
        ),
        (
            "steps.my-step.output.scor > 1",
            'steps.my-step.output has no "scor"; it has score, rows, if, in; did you mean "score"?',
        ),
        ("inputs.n / 0 > 1", "divide by zero"),
    ],
)
def test_says_why_it_has_no_value(text: str, reason: str, evaluator: BoundedEvaluator):
    with pytest.raises(ExpressionError) as caught:
        compile_condition(text).test(SCOPE, evaluator.evaluate)
    assert caught.value.reason == reason


FIRST = {**SCOPE, "iteration": 1, "previous": None, "output": {"score": 1}}
THIRD = {**SCOPE, "iteration": 3, "previous": {"score": 1}, "output": {"score": 2, "steps": [{"ok": True}]}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iteration == 1", [True, False]),
        ("iteration >= inputs.n", [False, True]),
        ("previous == null", [True, False]),
        ("previous.score == null", [True, False]),
        ("has(previous.score)", [False, True]),
        ("previous != null && previous.score > 0", [False, True]),
        ("output.score > 1 && output.steps.all(s, s.ok)", [False, True]),
    ],
)
def test_reads_its_iteration(text: str, expected: list[bool], evaluator: BoundedEvaluator):
    condition = compile_condition(text)
    assert [condition.test(scope, evaluator.evaluate) for scope in (FIRST, THIRD)] == expected


def test_a_key_that_is_not_there_is_null_before_the_first_iteration_alone(evaluator: BoundedEvaluator):
    condition = compile_condition("previous.draft.title == null")
    assert condition.test(FIRST, evaluator.evaluate)
    with pytest.raises(ExpressionError, match='previous has no "draft"; it has score'):
        condition.test(THIRD, evaluator.evaluate)


def test_needs_only_the_blobs_that_it_reads(evaluator: BoundedEvaluator):
    with pytest.raises(BlobNeeded) as caught:
        compile_condition("steps.blob.output.large.x == 1").test(SCOPE, evaluator.evaluate)
    assert caught.value.refs == {REF}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${{ inputs.n > 1 }}", "write it without ${{ }}: inputs.n > 1"),
        ("'text'", "a condition must be true or false, and this is string"),
        ("inputs.n = 1", "compare with =="),
        ("a & b", "write &&"),
        ("nope > 1", 'there is no name "nope"'),
        ("sise(inputs.n) > 1", 'did you mean "size"?'),
        ("steps.a.ouput == 1", 'did you mean "output"?'),
        ("steps.a", "write steps.a.output, .status or .error"),
        ("steps == null", "a step is named in full"),
        ("execution.nme == 'x'", 'did you mean "name"?'),
        ("inputs.list.exists(steps, steps == 1)", "cannot be the variable of a macro"),
        ("inputs.list.exists(previous, previous == 1)", "cannot be the variable of a macro"),
        ("iteration > 'x'", "> cannot be applied to int and string"),
        ("", "the expression is empty"),
        ("inputs.a == '" + "x" * 1024 + "'", "over 1024 bytes"),
        ("'unclosed == 1", "a string is not closed"),
    ],
)
def test_refuses_what_can_never_hold(text: str, message: str):
    with pytest.raises(ExpressionInvalid) as caught:
        compile_condition(text)
    assert message in str(caught.value)
