"""What could not be processed is kept, can be looked at, and is sent again: over HTTP and on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nats

from millrace_shared.testing.waiting import until

API = "/api/v1"
SUBJECT = "trigger.default.not-taken"


def publish(millrace: Any, subject: str, payload: bytes) -> None:
    async def send() -> None:
        connection = await nats.connect(millrace.stack.nats_url)
        try:
            await connection.jetstream().publish(subject, payload)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(send())


def command(millrace: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("millrace")
    found = {"MILLRACE_API_URL": millrace.stack.api_url, "MILLRACE_API_KEY": millrace.stack.api_key}
    return subprocess.run(
        [program, "dead", *arguments],
        env={**os.environ, **found},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def letters(millrace: Any, subject: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = millrace.http.get(f"{API}/dead?limit=100").json()["items"]
    return [one for one in listed if one["subject"] == subject]


def test_an_event_that_nobody_takes_is_listed_shown_and_redriven(millrace: Any) -> None:
    publish(millrace, SUBJECT, b'{"n": 41}')
    (letter,) = until(lambda: letters(millrace, SUBJECT))
    sequence = str(letter["sequence"])
    assert "no enabled trigger" in letter["reason"]
    listed = command(millrace, "ls")
    assert (listed.returncode, SUBJECT in listed.stdout) == (0, True), listed.stderr
    shown = json.loads(command(millrace, "show", sequence).stdout)
    assert (shown["payload"], shown["payload_encoding"]) == ({"n": 41}, "json")

    workflow = millrace.save(
        {
            "name": "taken-later",
            "inputs": {"n": {"type": "integer"}},
            "steps": {"add": {"transform": "${{ inputs.n + 1 }}"}},
            "outputs": {"n": "${{ steps.add.output }}"},
        }
    )
    body = {"name": "not-taken", "kind": "event", "workflow": workflow, "input": {"n": "${{ event.n }}"}}
    assert millrace.http.post(f"{API}/triggers", json=body).status_code == 201
    redriven = command(millrace, "redrive", sequence)
    assert (redriven.returncode, redriven.stdout) == (0, f"{sequence} sent again to {SUBJECT}\n"), redriven.stderr
    execution_id = until(lambda: millrace.http.get(f"{API}/triggers/not-taken").json()["last_execution_id"])
    assert millrace.ended(execution_id)["results"] == {"n": 42}

    again = command(millrace, "redrive", sequence)
    assert again.returncode == 1
    assert "was sent again" in again.stderr
    refused = millrace.http.post(f"{API}/dead/{sequence}/redrive")
    assert (refused.status_code, refused.json()["code"]) == (409, "dead_letter_already_redriven")
    # Sent a third time, it is still the first event: the same execution.
    assert command(millrace, "redrive", "--again", sequence).returncode == 0
    counts = until(
        lambda: (found := millrace.http.get(f"{API}/triggers/not-taken").json()["counts"])["repeated"] and found
    )
    assert (counts["fired"], counts["repeated"]) == (1, 1)


def test_a_message_of_the_engine_that_nobody_can_read_is_kept_and_stops_nothing(millrace: Any) -> None:
    execution_id = "0190b8a0-0000-7000-8000-00000000dead"
    subject = f"in.0.{execution_id}"
    publish(millrace, subject, b"\xff not a message")
    (letter,) = until(lambda: letters(millrace, subject))
    assert (letter["stream"], letter["service"], letter["redrivable"]) == ("INBOX", "orchestrator", True)
    shown = millrace.http.get(f"{API}/dead/{letter['sequence']}").json()
    assert shown["payload_encoding"] == "base64"
    answer = millrace.http.post(f"{API}/dead/{letter['sequence']}/redrive")
    assert answer.status_code == 202, answer.text
    until(lambda: len(letters(millrace, subject)) == 2)
    workflow = millrace.save({"name": "still-works", "steps": {"a": {"transform": 1}}})
    assert millrace.run(workflow)["status"] == "completed"


def test_what_is_not_there_is_said_to_be_so(millrace: Any) -> None:
    answer = millrace.http.get(f"{API}/dead/999999")
    assert (answer.status_code, answer.json()["code"]) == (404, "dead_letter_not_found")
    missing = command(millrace, "show", "999999")
    assert missing.returncode == 1
    assert "there is no dead letter 999999" in missing.stderr
