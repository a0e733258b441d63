from typing import Any

from rich.console import Console

from millrace.cli.progress import Progress
from millrace.client.shapes import LiveMessage


def message(event: str, second: int = 0, **data: Any) -> LiveMessage:
    return {"id": "1.0-0", "event": event, "data": {"timestamp": f"2026-01-15T10:00:{second:02}Z", **data}}


def test_a_step_with_a_retry():
    progress = Progress.of(["a", "b"])
    assert progress.apply(message("execution.started")) is None
    progress.apply(message("step.scheduled", 1, step="a", attempt=1))
    assert progress.steps["a"].status == "running"
    progress.apply(message("step.retry_scheduled", 2, step="a", attempt=1))
    assert progress.steps["a"].status == "waiting"
    progress.apply(message("step.scheduled", 3, step="a", attempt=2))
    assert progress.apply(message("step.completed", 5, step="a", attempt=2)) == "a"
    step = progress.steps["a"]
    assert (step.status, step.retries, step.ended_at and step.duration_s(step.ended_at)) == ("completed", 1, 4.0)
    assert progress.steps["b"].status == "pending"
    progress.apply(message("execution.finished", 5, status="completed"))
    assert progress.status == "completed"


def test_items_are_counted_and_end_no_step():
    progress = Progress.of(["each"])
    progress.apply(message("step.expanded", step="each", count=2))
    assert progress.apply(message("step.completed", 1, step="each", item=0)) is None
    assert progress.apply(message("step.failed", 2, step="each", item=1, error={"category": "timeout"})) is None
    assert progress.steps["each"].status == "running"
    assert (progress.steps["each"].items_ended, progress.steps["each"].items) == (2, 2)
    assert progress.apply(message("step.completed", 2, step="each")) == "each"


def test_every_end_has_its_status():
    progress = Progress.of("abcde")
    assert progress.apply(message("step.reused", step="e")) == "e"
    progress.apply(message("step.failed", step="a", error={"category": "timeout"}))
    progress.apply(message("step.failed", step="b", error={"category": "user_code"}))
    progress.apply(message("step.skipped", step="c"))
    progress.apply(message("step.cancelled", step="d"))
    statuses = [step.status for step in progress.steps.values()]
    assert statuses == ["timeout", "failed", "skipped", "cancelled", "completed"]


def test_iterations_are_no_retries():
    progress = Progress.of(["loop"])
    for attempt in (1, 2, 3):
        progress.apply(message("step.scheduled", step="loop", attempt=attempt))
        progress.apply(message("step.iterated", step="loop", attempt=attempt, iteration=attempt))
    assert progress.steps["loop"].retries == 0


def test_gates_and_pauses_show_in_the_status():
    progress = Progress.of(["a"])
    statuses = []
    for event in ("started", "held", "admitted", "paused", "resumed"):
        progress.apply(message(f"execution.{event}"))
        statuses.append(progress.status)
    assert statuses == ["running", "pending", "running", "paused", "running"]


def test_costs_add_up_and_one_unknown_price_makes_the_sum_unknown():
    progress = Progress.of(["a"])
    progress.apply(message("llm.call", step="a", input_tokens=10, output_tokens=5, cost_usd="0.01"))
    progress.apply(message("llm.call", step="a", input_tokens=10, output_tokens=5, cost_usd="0.02"))
    assert "$0.0300" in shown(progress)
    assert "30" in shown(progress)
    progress.apply(message("llm.call", step="a", input_tokens=1, output_tokens=1))
    assert "?" in shown(progress)


def shown(progress: Progress) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(progress.table())
    return capture.get()
