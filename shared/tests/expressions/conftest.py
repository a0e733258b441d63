from collections.abc import Iterator

import pytest

from millrace_shared.expressions.evaluators import BoundedEvaluator


@pytest.fixture(scope="session")
def evaluator() -> Iterator[BoundedEvaluator]:
    with BoundedEvaluator() as bounded:
        yield bounded
