import re
from pathlib import Path
from typing import Any

import pytest

from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.executors.python import Functions
from millrace_agent_runner.functions import FIB_MAX, current_attempt, data, echo, fib, testing

READ_OR_COMPUTE = (":scan_secrets", ":scan_dependencies", ":scan_licences", ":propose_diff")
"""Those run in a thread; all others are over at once."""
EXAMPLES = Path(__file__).parents[4] / "examples" / "workflows"


async def test_extract_transform_load_is_the_same_each_time() -> None:
    source = await data.validate_source("orders", 100)
    assert source["valid"]
    records = await data.extract("orders", 100)
    assert records == await data.extract("orders", 100)
    assert records != await data.extract("refunds", 100)
    assert not (await data.validate_records(records))["valid"]
    transformed = await data.transform_records(records, currency="EUR", rate=0.5)
    check = await data.validate_records(transformed, min_count=90)
    assert check == {"valid": True, "count": 95, "problems": []}
    loaded = await data.load(transformed)
    assert loaded["loaded"] == sum(loaded["by_country"].values()) == 95
    assert (await data.verify_load(loaded, 95))["valid"]
    assert not (await data.verify_load(loaded, 96))["valid"]
    assert (await data.cleanup("orders"))["cleaned"]


async def test_too_few_records_are_a_problem() -> None:
    assert (await data.validate_records([], min_count=1))["problems"] == ["0 records; at least 1 were expected"]


@pytest.mark.parametrize("count", [-1, data.RECORDS_MAX + 1, "ten"])
async def test_counts_are_bounded(count: Any) -> None:
    with pytest.raises(TerminalFailure, match="count is"):
        await data.extract("orders", count)


async def test_echo_and_fib() -> None:
    assert await echo({"a": 1}) == {"a": 1}
    assert [await fib(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]
    assert await fib(90) == 2_880_067_194_370_816_120
    assert len(str(await fib(FIB_MAX))) == 209
    for wrong in (-1, FIB_MAX + 1, 1.5, True):
        with pytest.raises(TerminalFailure, match="whole number"):
            await fib(wrong)  # type: ignore[arg-type]


async def test_payload_has_the_size_that_was_asked_for() -> None:
    assert len(await testing.payload(1_000)) == 1_000


def test_there_is_no_current_attempt_outside_of_a_step() -> None:
    with pytest.raises(LookupError):
        current_attempt()


def test_every_function_in_the_examples_exists() -> None:
    calls = {
        call
        for path in EXAMPLES.glob("*.yaml")
        for call in re.findall(r"^\s+(?:python|call): (millrace\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(calls) > 5
    for call in calls:
        assert Functions(()).resolve(call).is_async != call.endswith(READ_OR_COMPUTE)
