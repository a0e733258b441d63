"""`python -m millrace.demo` (`make demo`): the whole stack, every example, and what happened.

Needs no key and no network: the agents' models answer from a local OpenAI-compatible provider, through the same code
that calls a real one. Everything is made in a temporary directory and removed again. Exits with 1 if anything ended
other than it must.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from millrace.cli.show import (
    cost_text,
    duration_text,
    failure_lines,
    headline,
    open_console,
    rows_table,
    status_text,
    timeline_table,
)
from millrace.client import Client, ClientError
from millrace.client.shapes import Execution
from millrace.demo.provider import DemoProvider
from millrace.demo.scenarios import Scenario, scenarios
from millrace.embedded import EmbeddedError, EmbeddedStack
from millrace.embedded.ports import choose_free
from millrace.examples import example_files
from millrace_shared.definition.loader import load


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario, and what of it should not have."""

    scenario: Scenario
    execution: Execution
    differences: Sequence[str]


async def demonstrate(console: Console) -> list[Outcome]:
    """Start the stack and the provider, run every scenario, and return what came of them.

    Raises:
        EmbeddedError: the stack does not start.
        ClientError: the api does not do what it is asked.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="millrace-demo-") as directory:
        async with DemoProvider() as provider:
            environment = {"MILLRACE_OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "demo-key-of-nobody"}
            stack = EmbeddedStack(
                Path(directory),
                durability="fsync",
                api_port=choose_free(),  # stacks that start at the same moment all find the usual one free
                environment=environment,
            )
            async with stack:
                ready_s = time.monotonic() - began
                console.print(f"NATS, PostgreSQL and four services are ready after {duration_text(ready_s)}.")
                # The client waits for answers, and the stack's supervisor needs the loop meanwhile.
                outcomes = await asyncio.to_thread(_play, stack.api_url, stack.api_key, console)
            calls = provider.calls.total()
    _close(console, outcomes, f"{duration_text(time.monotonic() - began)}, {calls} calls of the local provider")
    return outcomes


def _play(url: str, key: str, console: Console) -> list[Outcome]:
    with Client(url, key) as client:
        for path in example_files():
            source = path.read_bytes()
            client.save_workflow(source, str(load(source).data["name"]))
        return [_run(client, scenario, console) for scenario in scenarios()]


def _run(client: Client, scenario: Scenario, console: Console) -> Outcome:
    """Run one scenario to its end, and show its time line."""
    workflow, _ = client.save_workflow(scenario.source, scenario.workflow)
    accepted = client.start(workflow["id"], scenario.values, version=workflow["version"])
    events = Counter(message["event"] for message in client.watch(accepted["execution_id"]))
    execution = client.execution(accepted["execution_id"])
    differences = scenario.differences(execution, events)
    console.print(Rule(f"{scenario.workflow}: {scenario.title}", align="left", style="dim"))
    console.print(headline(execution), soft_wrap=True)
    console.print(timeline_table(client.timeline(execution["id"])))
    expected = execution["status"] == scenario.status
    for line in failure_lines(execution):
        console.print(line, style="dim" if expected else "red", markup=False, soft_wrap=True)
    if events["llm.call"]:
        retries = f", {events['step.retry_scheduled']} retried" if events["step.retry_scheduled"] else ""
        streamed = f"{events['llm.call']} LLM calls{retries}, {events['llm.token']} pieces of text streamed"
        console.print(streamed, style="dim")
    for difference in differences:
        console.print(f"unexpected: {difference}", style="bold red", markup=False, soft_wrap=True)
    return Outcome(scenario, execution, differences)


def _close(console: Console, outcomes: Sequence[Outcome], spent: str) -> None:
    """Print the table of all outcomes."""
    console.print(Rule("what happened", align="left", style="dim"))
    console.print(
        rows_table(
            ("", "workflow", "status", ">steps", ">duration", ">tokens", ">cost", "shows"),
            (
                (
                    Text("✗", style="bold red") if outcome.differences else Text("✓", style="green"),
                    outcome.execution["workflow_name"],
                    status_text(outcome.execution["status"]),
                    _steps(outcome.execution),
                    duration_text(outcome.execution["duration"]),
                    str(outcome.execution["tokens_used"] or ""),
                    cost_text(outcome.execution["cost_usd"]),
                    outcome.scenario.title,
                )
                for outcome in outcomes
            ),
        )
    )
    wrong = sum(bool(outcome.differences) for outcome in outcomes)
    if wrong:
        console.print(f"{wrong} of {len(outcomes)} ended other than they must ({spent}).", style="bold red")
    else:
        console.print(f"All {len(outcomes)} ended as they must ({spent}).", style="bold green")
    console.print("A cost of ? means that the price is not known: the local provider has none.", style="dim")


def _steps(execution: Execution) -> str:
    """Return how many of the steps completed: `5/7`."""
    statuses = [step["status"] for step in execution["step_executions"]]
    return f"{statuses.count('completed')}/{len(statuses)}"


def main() -> int:
    """Run the demo. Returns the exit status."""
    console = open_console()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            outcomes = asyncio.run(demonstrate(console))
        except (EmbeddedError, ClientError) as error:
            console.print(f"millrace demo: {error}", style="red", markup=False, soft_wrap=True)
            return 1
        return 1 if any(outcome.differences for outcome in outcomes) else 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
