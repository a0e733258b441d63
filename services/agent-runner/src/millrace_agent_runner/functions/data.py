"""A small extract-transform-load set over made-up records: pure functions, the same for the same input.

A record is `{"id": int, "customer": str, "country": str, "amount": float, "valid": bool}`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from millrace_agent_runner.errors import TerminalFailure

RECORDS_MAX = 100_000
_COUNTRIES = ("AT", "BR", "DE", "FR", "IN", "JP", "US")
_INVALID_EVERY = 17
"""Every so many records has a negative amount, so that validation has something to find."""

Record = dict[str, Any]


async def validate_source(source: str, count: int = 100) -> dict[str, Any]:
    """Say whether `source` can be read: `{"valid", "source", "count"}`.

    Raises:
        TerminalFailure: the name is empty, or the count is out of bounds.
    """
    _check_count(count)
    if not source:
        raise TerminalFailure("the source has no name; pass `source`", category="input_invalid")
    return {"valid": True, "source": source, "count": count}


async def extract(source: str = "orders", count: int = 100) -> list[Record]:
    """Return `count` records of `source`; the same ones each time."""
    _check_count(count)
    return [_record(source, number) for number in range(1, count + 1)]


async def transform_records(records: list[Record], currency: str = "USD", rate: float = 1.0) -> list[Record]:
    """Drop records that are not valid, convert the amounts and round them to cents."""
    return [
        {**record, "amount": round(record["amount"] * rate, 2), "currency": currency}
        for record in records
        if record["valid"]
    ]


async def validate_records(records: list[Record], min_count: int = 1) -> dict[str, Any]:
    """Check records: `{"valid", "count", "problems"}`, at most ten problems."""
    problems = [
        f"record {record.get('id')}: the amount is {record.get('amount')!r}"
        for record in records
        if not isinstance(record.get("amount"), int | float) or record["amount"] < 0
    ]
    if len(records) < min_count:
        problems.insert(0, f"{len(records)} records; at least {min_count} were expected")
    return {"valid": not problems, "count": len(records), "problems": problems[:10]}


async def load(records: list[Record], target: str = "warehouse") -> dict[str, Any]:
    """Say what loading the records amounts to: `{"target", "loaded", "total", "by_country", "checksum"}`."""
    by_country: dict[str, int] = {}
    for record in records:
        by_country[record["country"]] = by_country.get(record["country"], 0) + 1
    digest = hashlib.sha256(",".join(str(record["id"]) for record in records).encode()).hexdigest()
    return {
        "target": target,
        "loaded": len(records),
        "total": round(sum(record["amount"] for record in records), 2),
        "by_country": dict(sorted(by_country.items())),
        "checksum": digest[:16],
    }


async def verify_load(loaded: dict[str, Any], expected: int) -> dict[str, Any]:
    """Compare what was loaded with what was expected: `{"valid", "loaded", "expected"}`."""
    return {"valid": loaded["loaded"] == expected, "loaded": loaded["loaded"], "expected": expected}


async def cleanup(source: str = "orders") -> dict[str, Any]:
    """Say that nothing of `source` is left behind."""
    return {"source": source, "cleaned": True}


def _check_count(count: int) -> None:
    if not isinstance(count, int) or not 0 <= count <= RECORDS_MAX:
        message = f"count is {count!r}; it must be a whole number from 0 to {RECORDS_MAX}"
        raise TerminalFailure(message, category="input_invalid")


def _record(source: str, number: int) -> Record:
    seed = int.from_bytes(hashlib.blake2b(f"{source}/{number}".encode(), digest_size=8).digest(), "big")
    valid = number % _INVALID_EVERY != 0
    return {
        "id": number,
        "customer": f"customer-{seed % 997:03d}",
        "country": _COUNTRIES[seed // 997 % len(_COUNTRIES)],
        "amount": (1 if valid else -1) * round(seed % 100_000 / 100 + 1, 2),
        "valid": valid,
    }
