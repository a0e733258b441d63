"""Dead letters: list, look at, send again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from millrace_api.domain.dead_letters import Kept, detail, is_of, summary
from millrace_api.domain.filters import read_sequence_cursor, sequence_cursor
from millrace_api.domain.rendering import timestamp
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_api.routes import shapes
from millrace_api.routes import trigger_shapes as own
from millrace_api.routes.exchange import LIMIT, PREFIX, Caller, Cursor, Json, Limit, adapters, page

router = APIRouter(prefix=PREFIX, tags=["dead letters"])

Sequence = Annotated[int, Path(ge=1, le=2**63 - 1, description="The letter's place in DEAD.")]
Stream = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z]{1,32}$", description="Only messages of this stream, `TRIGGERS`, say."),
]


@router.get("/dead", summary="List dead letters", responses=shapes.json_of(own.DeadPage))
async def list_dead(
    request: Request, caller: Caller, stream: Stream = None, limit: Limit = LIMIT, cursor: Cursor = None
) -> Response:
    """List messages that could not be processed, newest first. They are kept for 30 days.

    A page may hold fewer than `limit` although there are more: go on while there is a `next_cursor`.
    """
    letters = adapters(request).dead
    found, following = await letters.page(
        lambda letter: caller.is_operator or is_of(letter, caller.workspace),
        stream,
        read_sequence_cursor(cursor),
        limit,
    )
    total = await letters.count(stream) if caller.is_operator else len(found)
    following_cursor = None if following is None else sequence_cursor(following)
    return page([summary(kept) for kept in found], total, 0, limit, following_cursor)


@router.get("/dead/{sequence}", summary="Show a dead letter", responses=shapes.json_of(own.DeadDetail))
async def show_dead(request: Request, caller: Caller, sequence: Sequence) -> Response:
    """Show a dead letter with its payload: as JSON if it is, else as text, else in base64."""
    return Json(detail(await _get(request, caller, sequence)))


@router.post(
    "/dead/{sequence}/redrive",
    status_code=202,
    summary="Send a dead letter again",
    responses=shapes.json_of(own.Redriven, 202),
)
async def redrive_dead(
    request: Request,
    caller: Caller,
    sequence: Sequence,
    again: Annotated[bool, Query(description="Although it was sent again before.")] = False,
) -> Response:
    """Send a message again, to the subject that it came on, once what was wrong with it is put right.

    An event that had fired some of its triggers does not fire those a second time.
    """
    kept = await _get(request, caller, sequence)
    if kept.redrive is not None and not again:
        raise Refused(
            "dead_letter_already_redriven",
            f"dead letter {sequence} was sent again at {timestamp(kept.redrive.at)}; ?again=true does it once more",
        )
    kept = await adapters(request).dead.redrive(kept, caller.subject)
    assert kept.redrive is not None
    shown = {
        "sequence": kept.sequence,
        "stream": kept.letter.stream,
        "subject": kept.letter.subject,
        "stored_sequence": kept.redrive.stored_sequence,
        "redriven_at": timestamp(kept.redrive.at),
        "redriven_count": kept.redrive.count,
    }
    return Json(shown, 202)


async def _get(request: Request, caller: Identity, sequence: int) -> Kept:
    kept = await adapters(request).dead.get(sequence)
    if kept is None or not (caller.is_operator or is_of(kept.letter, caller.workspace)):
        raise Refused("dead_letter_not_found", f"there is no dead letter {sequence}; they are kept for 30 days")
    return kept
