"""Alertmanager's webhook (version "4"), and which alerts a trigger takes.

Alertmanager repeats an alert for as long as it lasts. A repetition is told by what Alertmanager itself tells alerts by:
fingerprint, when it started, and whether it is firing or resolved.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from millrace_api.domain.documents import decode
from millrace_api.domain.trigger_rules import Occurrence
from millrace_api.domain.triggers import AlertStatus, Trigger

BODY_BYTES_MAX = 8 * 1024 * 1024
"""A notification: a few thousand alerts."""
ALERTS_MAX = 10_000
_PLAIN = re.compile(r"[A-Za-z0-9_.:+-]{1,64}")


class Alert(msgspec.Struct, frozen=True, rename="camel", omit_defaults=False):
    """One alert, by Alertmanager's own names in JSON."""

    status: AlertStatus
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = ""
    ends_at: str = ""
    generator_url: str = msgspec.field(name="generatorURL", default="")
    fingerprint: str = ""


class Notification(msgspec.Struct, frozen=True, rename="camel"):
    """What Alertmanager sends: alerts of one group."""

    version: Literal["4"]
    alerts: tuple[Alert, ...]
    group_key: str = ""
    status: str = ""
    receiver: str = ""
    group_labels: dict[str, str] = {}
    common_labels: dict[str, str] = {}
    common_annotations: dict[str, str] = {}
    external_url: str = msgspec.field(name="externalURL", default="")
    truncated_alerts: int = 0


_decoder = msgspec.json.Decoder(Notification)


def decode_notification(body: bytes) -> Notification:
    """Decode a notification; fields that are not known are Alertmanager's business.

    Raises:
        Refused: `request_invalid`.
    """
    return decode(_decoder, body)


def takes(trigger: Trigger, alert: Alert) -> bool:
    """Tell whether a trigger is meant for an alert, its filter aside."""
    spec = trigger.spec
    if alert.status not in (spec.statuses or ("firing",)):
        return False
    return all(alert.labels.get(name) == value for name, value in (spec.match or {}).items())


def occurrence_of(alert: Alert, notification: Notification) -> Occurrence:
    """Return what a trigger sees of an alert: its own fields, and those of its group."""
    event: dict[str, Any] = msgspec.to_builtins(alert)
    event["groupLabels"] = notification.group_labels
    event["commonLabels"] = notification.common_labels
    event["commonAnnotations"] = notification.common_annotations
    event["externalURL"] = notification.external_url
    event["groupKey"] = notification.group_key
    facts = {"receiver": notification.receiver, "status": alert.status}
    return Occurrence(event, facts, identity_of(alert))


def identity_of(alert: Alert) -> str:
    """Return what tells an alert in its state from others."""
    parts = (fingerprint_of(alert), alert.starts_at, alert.status)
    if all(_PLAIN.fullmatch(part) for part in parts):
        return f"alert/{'/'.join(parts)}"
    return f"alert/{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()}"


def fingerprint_of(alert: Alert) -> str:
    """Return the alert's fingerprint; one made of its labels when the sender gave none."""
    if alert.fingerprint:
        return alert.fingerprint
    return hashlib.sha256(msgspec.json.encode(alert.labels, order="deterministic")).hexdigest()[:16]
