"""Who may have the free slots: credit of eighteen consumers, divided so that nothing is fetched that cannot run.

A consumer is a kind of work in a lane (`millrace_shared.lanes`), and is known here by its index: lanes in order of
precedence, the kinds of each lane together. Free slots go to

- the lanes that are not crowded, high before normal before low, but of any eight places that a lower lane has to wait
  through, one is its own (`GUARD`), however many urgent steps keep coming;
- then the crowded lanes, among which the same holds, and which all together get one of any eight likewise. They never
  hold more than seven eighths of the slots: the first step of somebody new finds one that no flood can have taken;
- the kinds of one lane in turns.

Each consumer of a lane that is not crowded counts as wanting one place even when nothing is known to wait: the place of
a standing request, by which new work is noticed at once. That is the only credit given on speculation. Crowded lanes
have none, since each would keep a slot from everybody else.
"""

from __future__ import annotations

from collections.abc import Sequence

from millrace_shared.lanes import LANES, LANES_UNCROWDED
from millrace_shared.messages import WORK_KINDS

KINDS = len(WORK_KINDS)
UNCROWDED = len(LANES_UNCROWDED)
STANDING = KINDS * UNCROWDED
"""Places that standing requests take: one for each kind of work in each lane that is not crowded."""
GUARD = 8
"""Of this many places in a row, at least one goes to each lower lane that waits, and to the crowded lanes together."""


def crowded_max(slots: int) -> int:
    """Return how many of `slots` crowded work may hold."""
    return slots * 7 // 8


class Turns:
    """Whose turn it is while there is not enough for all: the memory behind the guards. Deterministic, no I/O."""

    def __init__(self) -> None:
        self._passed = [0] * len(LANES)
        self._crowded_passed = 0
        self._last_kind = [KINDS - 1] * len(LANES)

    def next(self, wanted: Sequence[int]) -> int | None:
        """Return the consumer that gets the next place, or None when none wants one.

        Args:
            wanted: places that each consumer wants, by index.
        """
        lanes = [lane for lane in range(len(LANES)) if any(wanted[lane * KINDS : lane * KINDS + KINDS])]
        if not lanes:
            return None
        lane = self._lane(self._tier(lanes))
        for offset in range(1, KINDS + 1):
            kind = (self._last_kind[lane] + offset) % KINDS
            if wanted[lane * KINDS + kind]:
                break
        self._last_kind[lane] = kind
        return lane * KINDS + kind

    def _tier(self, lanes: list[int]) -> list[int]:
        """Return those of the waiting lanes among which the next place is given."""
        uncrowded = [lane for lane in lanes if lane < UNCROWDED]
        crowded = [lane for lane in lanes if lane >= UNCROWDED]
        if not crowded:
            self._crowded_passed = 0
            return uncrowded
        if not uncrowded or self._crowded_passed >= GUARD - 1:
            self._crowded_passed = 0
            return crowded
        self._crowded_passed += 1
        return uncrowded

    def _lane(self, tier: list[int]) -> int:
        """Return the lane of a tier that gets the next place: the first, or one that was passed over too often."""
        first, lower = tier[0], tier[1:]
        start = 0 if first < UNCROWDED else UNCROWDED
        due = [lane for lane in lower if self._passed[lane] >= GUARD - len(lower)]
        chosen = max(due, key=self._passed.__getitem__) if due else first
        for lane in range(start, start + UNCROWDED):
            self._passed[lane] = self._passed[lane] + 1 if lane in lower and lane != chosen else 0
        return chosen


def divide(free: int, crowded_free: int, wanted: Sequence[int], turns: Turns) -> list[int]:
    """Divide free slots among consumers.

    Args:
        free: slots that are neither taken nor asked for.
        crowded_free: how many more slots crowded work may hold.
        wanted: places that each consumer could use, by index, beyond those it has asked for.
        turns: what was given before; it is moved on.

    Returns:
        How many places each consumer may ask for; together at most `free`, and all of it while anybody wants one.
    """
    given = [0] * len(wanted)
    if free <= 0:
        return given
    first_crowded = UNCROWDED * KINDS
    crowded_wanted = sum(wanted[first_crowded:])
    if sum(wanted[:first_crowded]) + crowded_wanted <= free and crowded_wanted <= max(0, crowded_free):
        return list(wanted)  # enough for all: nobody is passed over
    waiting = [index for index, count in enumerate(wanted) if count]
    if len(waiting) == 1:  # nobody to be passed over either
        [index] = waiting
        given[index] = min(free, wanted[index], crowded_free if index >= first_crowded else free)
        return given if given[index] > 0 else [0] * len(wanted)
    left = list(wanted)
    for _ in range(free):
        if crowded_free <= 0:
            left[first_crowded:] = [0] * (len(left) - first_crowded)
        chosen = turns.next(left)
        if chosen is None:
            break
        left[chosen] -= 1
        given[chosen] += 1
        if chosen >= first_crowded:
            crowded_free -= 1
    return given
