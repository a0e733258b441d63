"""Who may have the free slots: pull credit of nine consumers, divided so that nothing is fetched that cannot run.

Every consumer (kind x priority) keeps one request for one message open, so that any work is noticed at once. That is
one slot kept for each, and the only credit given on speculation. The rest is given where work is known to wait (each
delivery says how much is left), high priority before normal before low, and in turns among the kinds of one priority.
So a flood of one kind gets all but the eight slots that the other consumers keep, and never those.
"""

from __future__ import annotations

from collections.abc import Sequence

STANDING = 1
"""Places that each consumer asks for even when nothing is known to wait."""


def divide(free: int, asked: Sequence[int], backlog: Sequence[int], rank: Sequence[int], turn: int) -> list[int]:
    """Divide free slots among consumers.

    Args:
        free: slots that are neither taken nor asked for.
        asked: places that each consumer has asked for and not got yet.
        backlog: messages that are known to wait for each consumer.
        rank: precedence of each consumer; 0 goes first.
        turn: changes from call to call; decides who is first among equals.

    Returns:
        How many more places each consumer may ask for; together at most `free`.
    """
    count = len(asked)
    extra = [0] * count
    if free <= 0:
        return extra
    order = sorted(range(count), key=lambda index: (rank[index], (index - turn) % count))
    for index in order:
        if asked[index] < STANDING and free > 0:
            extra[index] = STANDING - asked[index]
            free -= extra[index]
    start = 0
    while start < count and free > 0:
        end = start
        while end < count and rank[order[end]] == rank[order[start]]:
            end += 1
        free -= _share(free, order[start:end], asked, backlog, extra)
        start = end
    return extra


def _share(free: int, equals: Sequence[int], asked: Sequence[int], backlog: Sequence[int], extra: list[int]) -> int:
    """Give `equals` what they lack, evenly while there is not enough. Returns how much was given."""
    given = 0
    wanting = [index for index in equals if backlog[index] > asked[index] + extra[index]]
    while wanting and given < free:
        portion = max(1, (free - given) // len(wanting))
        for index in wanting:
            amount = min(portion, backlog[index] - asked[index] - extra[index], free - given)
            extra[index] += amount
            given += amount
        wanting = [index for index in wanting if backlog[index] > asked[index] + extra[index]]
    return given
