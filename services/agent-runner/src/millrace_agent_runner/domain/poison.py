"""The result of a work message that cannot be performed: its subject still says which attempt it is for."""

from __future__ import annotations

import re
import time

from millrace_shared.ids import is_execution_id
from millrace_shared.messages import ErrorInfo, StepResult

_KEY = re.compile(r"^(?P<step>[a-z][a-z0-9_-]*)(?:~(?P<item>\d+))?@(?P<attempt>\d+)$")
_SUBJECT_TOKENS = 6


def result_for_poison(subject: str, reason: str, started_at: float, runner: str) -> StepResult | None:
    """Return a failed result for the attempt that `work.<kind>.<priority>.<p>.<exec>.<attempt key>` names.

    None when the subject names none, so that there is nobody to tell.
    """
    tokens = subject.split(".")
    match = _KEY.match(tokens[-1])
    if len(tokens) != _SUBJECT_TOKENS or match is None or not is_execution_id(tokens[4]):
        return None
    message = f"the attempt was given up: {reason}. The work message is kept in the DEAD stream"
    return StepResult(
        execution_id=tokens[4],
        step=match["step"],
        attempt=int(match["attempt"]),
        started_at=started_at,
        finished_at=time.time(),
        item=int(match["item"]) if match["item"] is not None else None,
        error=ErrorInfo(code="work_undeliverable", category="undeliverable", message=message),
        runner=runner,
    )
