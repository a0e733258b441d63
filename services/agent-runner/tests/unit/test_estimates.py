from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.domain.estimates import (
    COUNTED_CHARS_MAX,
    RATIO_MAX,
    RATIO_MIN,
    Learned,
    count_tokens,
)

ENGLISH = "The quick brown fox jumps over the lazy dog, and then it rests for a while under the old oak tree. "


def test_text_code_and_json_are_counted_by_what_is_larger() -> None:
    assert count_tokens([ENGLISH]) == 4 + 25  # bytes / 4: words are longer than that
    assert count_tokens(["a = b[c](d)"]) == 4 + 9  # each symbol is a token
    assert count_tokens(['{"id":1,"tags":["a"]}']) == 4 + 17
    assert count_tokens([]) == 0


@given(st.lists(st.text(max_size=200), max_size=10))
def test_more_text_is_never_fewer_tokens(texts: list[str]) -> None:
    assert count_tokens(texts) <= count_tokens([*texts, "x"])
    assert count_tokens(texts) <= count_tokens([text + " x" for text in texts])


def test_a_text_that_is_too_long_to_be_read_is_counted_by_its_beginning() -> None:
    once, long = ENGLISH * (COUNTED_CHARS_MAX // len(ENGLISH)), ENGLISH * (20 * COUNTED_CHARS_MAX // len(ENGLISH))
    assert abs(count_tokens([long]) / count_tokens([once]) - 20) < 0.1


@given(st.floats(0.3, 4), st.integers(1, 4_000))
def test_estimates_come_near_what_a_model_uses(ratio: float, answer: int) -> None:
    learned = Learned()
    for _ in range(60):
        learned = learned.learn(1_000, round(1_000 * ratio), answer)
    estimate = learned.estimate(1_000)
    assert abs(estimate.input_tokens - 1_000 * ratio) <= 3
    assert abs(estimate.output_tokens - answer) <= 2


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**6))
def test_one_call_that_is_out_of_all_proportion_changes_little(counted: int, used: int, answer: int) -> None:
    learned = Learned().learn(counted, used, answer)
    assert 1 - 0.2 * (1 - RATIO_MIN) <= learned.input_ratio <= 1 + 0.2 * (RATIO_MAX - 1)


def test_an_answer_that_is_bounded_is_not_estimated_beyond() -> None:
    assert Learned().estimate(10, output_max=20).tokens == 30
    assert Learned().estimate(10).tokens == 266
