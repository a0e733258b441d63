"""Signatures of incoming webhooks: HMAC-SHA256 over when, which, and what.

    Millrace-Signature: t=<Unix seconds>,v1=<hex of HMAC-SHA256(secret, "<t>.<Idempotency-Key>.<body>")>

The time is signed, so that a request that somebody overheard is worthless minutes later; the key is signed, so that it
cannot be made a different request meanwhile. Without an `Idempotency-Key` there is nothing between the two points.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from millrace_api.errors import Refused

HEADER = "Millrace-Signature"
KEY_HEADER = "Idempotency-Key"
WINDOW_S = 300
"""How far the signed time may lie from ours, either way."""
SECRET_CHARS_MIN, SECRET_CHARS_MAX = 16, 256
_SIGNATURE = re.compile(r"t=(?P<at>\d{1,12}),\s*v1=(?P<digest>[0-9a-fA-F]{64})")
_KEY = re.compile(r"[A-Za-z0-9_:-]{1,100}")


def sign(secret: str, at: int, key: str, body: bytes) -> str:
    """Return the value of the signature header for a request that is sent at `at` (Unix seconds)."""
    return f"t={at},v1={_digest(secret, str(at), key, body)}"


def check_signature(secret: str, given: str | None, key: str, body: bytes, now: float) -> str:
    """Check a signature, in constant time.

    Returns:
        The digest: the same request sent twice has the same one.

    Raises:
        Refused: `webhook_signature_invalid`, the same whatever is wrong but for the form and the time.
    """
    if given is None:
        raise _refused(f"send the header {HEADER}: t=<Unix seconds>,v1=<HMAC-SHA256 in hex>")
    match = _SIGNATURE.fullmatch(given.strip())
    if match is None:
        raise _refused(f"{HEADER} has the form t=<Unix seconds>,v1=<HMAC-SHA256 in hex>")
    # The digest first: who does not know the secret need not learn what our clock says.
    expected = _digest(secret, match["at"], key, body)
    if not hmac.compare_digest(expected, match["digest"].lower()):
        raise _refused("the signature does not fit the secret, the time, the Idempotency-Key and the body")
    if abs(now - int(match["at"])) > WINDOW_S:
        raise _refused(f"the signed time is more than {WINDOW_S} s away from ours: send it anew, and check the clocks")
    return expected


def read_key(given: str | None) -> str:
    """Return the request's idempotency key, empty if it has none.

    Raises:
        Refused: `request_invalid`.
    """
    if given is None or given == "":
        return ""
    if _KEY.fullmatch(given) is None:
        message = "at most 100 letters, digits, and any of _ : -"
        loc = ["header", KEY_HEADER]
        mistake = {"loc": loc, "msg": message, "type": "value_invalid", "input": given[:100]}
        raise Refused("request_invalid", f"{KEY_HEADER}: {message}", [mistake])
    return given


def _digest(secret: str, at: str, key: str, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{at}.{key}.".encode() + body, hashlib.sha256).hexdigest()


def _refused(detail: str) -> Refused:
    return Refused("webhook_signature_invalid", detail)
