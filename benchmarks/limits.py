"""What a provider sees of 200 agent steps that start at once under its limits per minute, and what they hold meanwhile.

    python benchmarks/limits.py                        # 6,000 tokens/min and 30 requests/min; JSON to standard output
    python benchmarks/limits.py --steps 60 --runners 1

A real HTTP server takes the provider's part: it enforces the same limits over a sliding minute and answers 429 beyond
them. Time is not scaled: 200 calls at 30 a minute take about seven minutes. Prompts differ in length, and together they
need about as much of one limit as of the other. While they wait, a step that calls no model is run every few seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import uvloop
from bus_load import BusLoad
from workflows import WORKFLOWS

from millrace.embedded import EmbeddedStack
from millrace_shared.messages import ExecutionFinished, StepDeferred
from millrace_shared.testing.providers import Call, FakeProviders, Quota, Reply, reply

MODEL = "openai:bench"
RUNNER_SLOTS = 16
PROMPT_WORDS = (60, 110, 160, 210)
ANSWER_WORDS = (20, 80)
ANSWER_S = (0.3, 1.5)
SAMPLE_S = 0.5
PROBE_S = 5.0
TIMEOUT_S = 3600.0
TOO_MANY = 429
HALF_MINUTE_S = 30


def workflow(words: int) -> dict[str, Any]:
    """One agent step with a prompt of so many words; a refusal by the provider would show as a failed execution."""
    return {
        "version": 1,
        "name": f"ask-{words}",
        "limits": {"timeout": "2h"},
        "agents": {"asked": {"model": MODEL, "instructions": "Answer in a few words."}},
        "steps": {"ask": {"agent": "asked", "prompt": "word " * words}},
    }


def answer(_: Call) -> Reply:
    """An answer of some length, after some time."""
    return reply("word " * random.randint(*ANSWER_WORDS), delay_s=random.uniform(*ANSWER_S))


def slots_in_use(url: str) -> float:
    """Ask a runner how many attempts it performs."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("millrace_runner_slots_in_use ")))


class Watching:
    """What is held and what still works, looked at until it is cancelled."""

    def __init__(self, load: BusLoad, runners: list[str], providers: FakeProviders) -> None:
        self._load = load
        self._runners = runners
        self._providers = providers
        self.in_use: list[float] = []
        self.waiting_in_place: list[float] = []
        self.probes_s: list[float] = []

    async def slots(self) -> None:
        """Sample the slots that are in use, and how many of those have no call under way."""
        while True:
            in_use = sum([await asyncio.to_thread(slots_in_use, url) for url in self._runners])
            calling = sum(call.fate == "open" for call in self._providers.calls)
            self.in_use.append(in_use)
            self.waiting_in_place.append(max(0.0, in_use - calling))
            await asyncio.sleep(SAMPLE_S)

    async def others(self, definition: str) -> None:
        """Run a step without a model, again and again."""
        while True:
            request = self._load.request("others", definition)
            finished = self._load.watch(request.execution_id, ExecutionFinished)
            began = time.perf_counter()
            await self._load.accept([request])
            self.probes_s.append(await finished - began)
            await asyncio.sleep(PROBE_S)


def provided(providers: FakeProviders, quota: Quota) -> dict[str, Any]:
    """Return what the provider saw: how much of its limits was used, between the first call and the last."""
    answered = [call for call in providers.calls if call.status != TOO_MANY]
    refused = len(providers.calls) - len(answered)
    if len(answered) < 2:
        raise SystemExit(f"the steps ended with {len(answered)} calls: look into the runners' logs")
    minutes = (answered[-1].at - answered[0].at) / 60
    tokens = sum(call.input_tokens + call.output_tokens for call in answered[:-1])
    assert quota.requests is not None
    assert quota.tokens is not None
    of_requests, of_tokens = (len(answered) - 1) / minutes / quota.requests, tokens / minutes / quota.tokens
    return {
        "calls": len(providers.calls),
        "refused_with_429": refused,
        "refused_percent": round(100 * refused / len(providers.calls), 2),
        "minutes": round(minutes, 2),
        "requests_per_min": round((len(answered) - 1) / minutes, 1),
        "tokens_per_min": round(tokens / minutes),
        "percent_of_the_limit_that_binds": round(100 * max(of_requests, of_tokens), 1),
        "calls_in_each_half_minute": [
            sum(begin <= call.at - answered[0].at < begin + HALF_MINUTE_S for call in answered)
            for begin in range(0, int(minutes * 60) + 1, HALF_MINUTE_S)
        ],
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a stack and a provider, and measure once."""
    quota = Quota(requests=arguments.requests, tokens=arguments.tokens)
    limit = {
        "provider": "openai",
        "requests_per_minute": arguments.requests,
        "tokens_per_minute": arguments.tokens,
    }
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        FakeProviders(answer, quota=quota) as fake,
    ):
        environment = {
            "MILLRACE_OPENAI_BASE_URL": fake.openai_url,
            "MILLRACE_RATE_LIMITS": json.dumps([limit]),
            "MILLRACE_RUNNER_SLOTS": str(RUNNER_SLOTS),
        }
        services = {"orchestrator": 1, "agent-runner": arguments.runners}
        stack = EmbeddedStack(
            Path(directory), durability=arguments.durability, services=services, environment=environment
        )
        async with stack:
            runners = [one.url for one in stack.instances if one.service == "agent-runner"]
            load = await BusLoad.open(stack.nats_url)
            asking = [await load.define(workflow(words)) for words in PROMPT_WORDS]
            watching = Watching(load, runners, fake)
            tasks = [
                asyncio.create_task(watching.slots()),
                asyncio.create_task(watching.others(await load.define(WORKFLOWS["single"]))),
            ]
            requests = [load.request("a", asking[number % len(asking)]) for number in range(arguments.steps)]
            ended = [load.watch(request.execution_id, ExecutionFinished) for request in requests]
            deferred = [load.watch(request.execution_id, StepDeferred) for request in requests]
            await load.accept(requests)
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.gather(*ended)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            transitions = (await load.connection.jetstream_api("STREAM.INFO.EVENTS"))["state"]["messages"]
            await load.connection.close()
        return {
            "steps": arguments.steps,
            "runners": arguments.runners,
            "slots": arguments.runners * RUNNER_SLOTS,
            "limits": limit,
            "provider": provided(fake, quota),
            "gave_their_slot_back": sum(future.done() for future in deferred),
            "slots_in_use_mean": round(statistics.mean(watching.in_use), 2),
            "slots_in_use_max": max(watching.in_use),
            "slots_waiting_in_place_mean": round(statistics.mean(watching.waiting_in_place), 2),
            "other_steps_ms": {
                "median": round(statistics.median(watching.probes_s) * 1e3, 1),
                "max": round(max(watching.probes_s) * 1e3, 1),
            },
            "transitions": transitions,
        }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--requests", type=int, default=30, help="per minute")
    parser.add_argument("--tokens", type=int, default=6_000, help="per minute")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    print(json.dumps(uvloop.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
