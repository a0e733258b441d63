"""What 50 agent steps at once spend of a budget of one dollar, while the runners that perform them are killed.

    python benchmarks/budgets.py                       # JSON to standard output; about a minute
    python benchmarks/budgets.py --runners 3 --kill-every 1.5

One execution has the budget. A real HTTP server takes the provider's part: it counts what it answers, at the same
prices, answers that no runner lived to read included. Every step would make four calls, and together they would cost
about twice the budget. In the end the ledger is compared with what the provider counted, and with its own entries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from bus_load import BusLoad

from millrace.embedded import EmbeddedStack
from millrace_shared.messages import ExecutionFinished
from millrace_shared.testing.providers import Call, FakeProviders, Reply, calls, reply

BUDGET_USD = Decimal(1)
PRICES = {"input_per_million": 10, "output_per_million": 2}
PROMPT_WORDS = 800
CALLS_OF_A_STEP = 4
ANSWER_WORDS = (20, 200)
ANSWER_S = (0.2, 1.5)
TIMEOUT_S = 1800.0

ENTRIES = """
SELECT state, count(*)::int AS calls, coalesce(sum(cost_usd), 0) AS usd FROM spend.entries GROUP BY state ORDER BY state
"""
ACCOUNT = "SELECT spent_usd, spent_calls, reserved_usd, reserved_calls FROM spend.accounts WHERE scope = $1"


def workflow(steps: int) -> dict[str, Any]:
    """Independent agent steps under one budget; one that is stopped does not stop the others."""
    agent = {
        "model": "openai:bench",
        "tools": [{"name": "fib", "config": {"call": "millrace_agent_runner.functions:fib"}}],
    }
    step = {"agent": "spender", "prompt": "word " * PROMPT_WORDS, "on_error": "continue"}
    return {
        "version": 1,
        "name": "spend",
        "limits": {"timeout": "1h", "max_cost_usd": float(BUDGET_USD), "max_parallel": steps},
        "agents": {"spender": agent},
        "steps": {f"spend_{number}": {**step, "retry": {"max_attempts": 5}} for number in range(steps)},
    }


def answer(call: Call) -> Reply:
    """Call the tool until the last call, after some time."""
    asked = sum(message["role"] == "assistant" for message in call.body["messages"])
    delay_s = random.uniform(*ANSWER_S)
    if asked < CALLS_OF_A_STEP - 1:
        return reply("word " * random.randint(*ANSWER_WORDS), calls("fib", n=5), delay_s=delay_s)
    return reply("done " * random.randint(*ANSWER_WORDS), delay_s=delay_s)


def cost_usd(call: Call) -> Decimal:
    """What the provider bills for a call."""
    billed = call.input_tokens * PRICES["input_per_million"] + call.output_tokens * PRICES["output_per_million"]
    return Decimal(billed) / 1_000_000


async def kill_on(stack: EmbeddedStack, runners: list[str], every_s: float, killed: list[str]) -> None:
    """Kill one runner after the other, at random, until cancelled; the stack starts each again."""
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5) * every_s)
        name = random.choice(runners)
        stack.kill(name)
        killed.append(name)
        await stack.wait_ready(name)


def verdict(providers: FakeProviders, entries: list[Any], account: Any) -> dict[str, Any]:
    """Compare what the provider counted with what the ledger has."""
    answered = [call for call in providers.calls if call.status == 200]
    billed = sum((cost_usd(call) for call in answered), Decimal(0))
    dearest = max(cost_usd(call) for call in answered)
    by_state = {row["state"]: {"calls": row["calls"], "usd": float(row["usd"])} for row in entries}
    counted = sum(
        (Decimal(row["usd"]) for row in entries if row["state"] in {"settled", "presumed"}),
        Decimal(0),
    )
    return {
        "provider": {"calls": len(answered), "usd": float(billed), "dearest_call_usd": float(dearest)},
        "ledger": by_state,
        "account": {name: float(value) for name, value in account.items()},
        "provider_over_budget_usd": float(max(Decimal(0), billed - BUDGET_USD)),
        "account_is_the_sum_of_its_entries": account["spent_usd"] == counted,
        "ledger_covers_what_the_provider_counted": counted >= billed,
        "settled_or_presumed_for_each_call_answered": sum(
            row["calls"] for row in entries if row["state"] in {"settled", "presumed"}
        )
        >= len(answered),
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a stack and a provider, and measure once."""
    price = {"provider": "openai", "model": "bench", "version": "benchmark", **PRICES}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        FakeProviders(answer) as fake,
    ):
        environment = {
            "MILLRACE_OPENAI_BASE_URL": fake.openai_url,
            "MILLRACE_PRICES": json.dumps([price]),
            "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
        }
        services = {"orchestrator": 1, "agent-runner": arguments.runners}
        stack = EmbeddedStack(
            Path(directory), durability=arguments.durability, services=services, environment=environment
        )
        async with stack:
            runners = [one.name for one in stack.instances if one.service == "agent-runner"]
            load = await BusLoad.open(stack.nats_url)
            request = load.request("spenders", await load.define(workflow(arguments.steps)))
            finished = load.watch(request.execution_id, ExecutionFinished)
            began, killed = time.perf_counter(), list[str]()
            await load.accept([request])
            killing = asyncio.create_task(kill_on(stack, runners, arguments.kill_every, killed))
            async with asyncio.timeout(TIMEOUT_S):
                await finished
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            took_s = time.perf_counter() - began
            database = await asyncpg.connect(stack.database_url)
            found = verdict(fake, await database.fetch(ENTRIES), await database.fetchrow(ACCOUNT, request.execution_id))
            await database.close()
            await load.connection.close()
        return {
            "steps": arguments.steps,
            "budget_usd": float(BUDGET_USD),
            "runners": arguments.runners,
            "runners_killed": len(killed),
            "seconds": round(took_s, 1),
            **found,
        }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds, on average")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    print(json.dumps(uvloop.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
