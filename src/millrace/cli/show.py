"""How executions look on a terminal: tables, durations, costs. Used by the commands and the demo."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from millrace.client.shapes import Execution, ExecutionSummary, Progress, Timeline

STYLES: Mapping[str, str] = {
    "completed": "green",
    "failed": "bold red",
    "timeout": "bold red",
    "cancelled": "yellow",
    "skipped": "dim",
    "running": "cyan",
    "paused": "yellow",
    "waiting": "cyan",
    "pending": "dim",
}
VALUE_CHARS_MAX = 100
BAR_CHARS = 24
PIPE_CHARS = 160
_MINUTE_S, _HOUR_S = 60, 3600


def open_console(*, quiet: bool = False) -> Console:
    """Return the console of a command: as wide as the terminal, and wide enough for tables where there is none."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_CHARS
    return Console(highlight=False, quiet=quiet, width=width)


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=STYLES.get(status, ""))


def progress_text(step: Progress) -> Text:
    """Return a step's status, and in a word what it waits for or that its output was there already."""
    note = "cached" if step["cached"] else "reused" if step["reused_from"] else None
    if step["status"] in ("waiting", "pending"):
        note = step["reason"]
    text = status_text(step["status"])
    return text.append(f" ({note})", style="dim") if note else text


def one_line(text: str, style: str = "") -> Text:
    """Return a text that is cut, rather than wrapped, where there is no room."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def duration_text(seconds: float | None) -> str:
    """Return a duration with the digits that matter: `12 ms`, `3.4 s`, `2 min 05 s`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:02.0f} s"
    return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:02.0f} min"


def cost_text(cost_usd: float | None) -> str:
    """Return a cost in US dollars; `?` when a price is not known."""
    if cost_usd is None:
        return "?"
    return f"${cost_usd:.4f}" if cost_usd else ""


def value_text(value: Any, chars_max: int = VALUE_CHARS_MAX) -> str:
    """Return a value on one line, cut when it is long; of one that the server cut already, its beginning."""
    if value is None:
        return ""
    if isinstance(value, dict) and value.get("truncated") is True and "preview" in value:
        value = value["preview"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"


def steps_table(execution: Execution) -> Table:
    """Return a row for each step: status, duration, tries, cost, and what came of it."""
    table = _table("step", "status", ">duration", ">retries", ">tokens", ">cost", "output")
    for step in execution["step_executions"]:
        outcome = step["error_message"] or value_text(step["output_data"])
        table.add_row(
            step["step_id"],
            progress_text(step),
            duration_text(step["duration"]),
            str(step["retry_count"] or ""),
            str(step["tokens_used"] or ""),
            cost_text(step["cost_usd"]),
            one_line(outcome, style="red" if step["error_message"] else ""),
        )
    return table


def headline(execution: ExecutionSummary) -> Text:
    """Return one line about an execution: what it is, how it fared, how long it took and what it cost."""
    name = f"{execution['workflow_name']} version {execution['workflow_version']}"
    parts = [duration_text(execution["duration"])]
    if execution["tokens_used"]:
        parts += [f"{execution['tokens_used']} tokens", cost_text(execution["cost_usd"])]
    return Text.assemble(
        (name, "bold"),
        f" {execution['id']} ",
        status_text(execution["status"]),
        "".join(f", {part}" for part in parts if part),
    )


def failure_lines(execution: ExecutionSummary) -> list[str]:
    """Return why an execution did not complete, and where; nothing if it did."""
    error = execution["error"]
    if error is None:
        return []
    where = f" in step {error['step_id']}" if error["step_id"] else ""
    return [f"{error['category'] or error['code']}{where}: {error['message']}"]


def executions_table(executions: Iterable[ExecutionSummary]) -> Table:
    """Return a row for each execution."""
    table = _table("id", "workflow", "status", "created", ">duration", ">tokens", ">cost", "name")
    for one in executions:
        table.add_row(
            one["id"],
            f"{one['workflow_name']} v{one['workflow_version']}",
            status_text(one["status"]),
            moment_text(one["created_at"]),
            duration_text(one["duration"]),
            str(one["tokens_used"] or ""),
            cost_text(one["cost_usd"]),
            one_line(one["execution_name"] or ""),
        )
    return table


def timeline_table(timeline: Timeline) -> Table:
    """Return a row for each step, with a bar for when it ran."""
    table = _table("step", "status", ">start", ">duration", "when", "output")
    begin, total_s = _moment(timeline["started_at"]), timeline["total_duration_seconds"]
    for step in timeline["step_timeline"]:
        start = _moment(step["started_at"])
        offset_s = (start - begin).total_seconds() if start and begin else None
        outcome = step["error_message"] or value_text(step["output_summary"])
        table.add_row(
            step["step_name"],
            progress_text(step),
            duration_text(offset_s),
            duration_text(step["duration_seconds"]),
            Text(bar(offset_s, step["duration_seconds"], total_s), style=STYLES.get(step["status"], "")),
            one_line(outcome, style="red" if step["error_message"] else ""),
        )
    return table


def bar(offset_s: float | None, duration_s: float | None, total_s: float | None) -> str:
    """Return when something ran, as a bar on a line of `BAR_CHARS`; empty if it did not run, or still does."""
    if offset_s is None or duration_s is None or not total_s:
        return ""
    first = min(int(offset_s / total_s * BAR_CHARS), BAR_CHARS - 1)
    length = max(1, round(duration_s / total_s * BAR_CHARS))
    return (" " * first + "━" * min(length, BAR_CHARS - first)).ljust(BAR_CHARS)


def moment_text(moment: str | None) -> str:
    """Return a UTC time to the second."""
    return "" if moment is None else moment[:19].replace("T", " ") + "Z"


def _moment(moment: str | None) -> datetime | None:
    return None if moment is None else datetime.fromisoformat(moment)


def _table(*columns: str) -> Table:
    """Return an empty table; `>` aligns a column to the right, and the last column gives way when it is narrow."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            # Rich narrows the columns that may wrap before any other; `one_line` keeps the cells from doing it.
            no_wrap=column is not columns[-1],
            overflow="ellipsis",
        )
    return table


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table of rows; a column that begins with `>` is aligned to the right."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    return table


def print_execution(console: Console, execution: Execution, *, steps: bool = True) -> None:
    """Print an execution: one line, its steps, and its outputs or why there are none."""
    console.print(headline(execution), soft_wrap=True)
    if steps:
        console.print(steps_table(execution))
    for line in failure_lines(execution):
        console.print(line, style="red", markup=False, soft_wrap=True)
    for name, value in _outputs(execution["results"]):
        console.print(f"{name}: {value_text(value, 400)}", markup=False, soft_wrap=True)


def _outputs(results: Any) -> list[tuple[str, Any]]:
    if isinstance(results, dict):
        return list(results.items())
    return [] if results is None else [("results", results)]
