"""What of a limit per minute is used up, and when there is room for the next call. Pure: time is a parameter.

Two rules hold at once:

- **The window.** In any minute, wherever it begins, no more is taken than the limit. What was taken is counted by parts
  of the minute, and a part counts until all of it is older than a minute and a part more, so a provider that counts a
  sliding minute, a fixed one or a bucket that refills, each by when a call arrives, sees no more than its limit.
- **The pace** (GCRA, ITU-T I.371). Calls come one after the other at `PACE` of the limit, after a burst of at most
  `BURST` of a minute's worth, so what is left of a minute is spread over it, and there is always room again soon.

The window alone would let all calls of a minute go in its first second, and then none. The pace alone would let calls
that are large in proportion to the limit exceed it in some minutes, or halve their throughput.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

WINDOW_S = 60.0
PARTS = 60
"""A minute is counted by so many parts."""
PARTS_COUNTED = PARTS + 2
"""The part that runs and the one in which the minute began count whole; one more is for a call's way there."""
PACE = 0.96
"""Of the limit; what the window lets through in the long run is a little more (`PARTS / PARTS_COUNTED`)."""
BURST = 0.1
"""Of a minute's worth, at once."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was taken of one limit.

    Attributes:
        limit: units in each window.
        window_s: how long a window is.
        paced_to: when the calls made so far would have ended, had they come one after the other at the pace.
        newest: the number of the newest part that something was taken in; parts are counted from the epoch.
        used: units taken in that part, in the one before it, and so on.
    """

    limit: int
    window_s: float = WINDOW_S
    paced_to: float = 0.0
    newest: int = 0
    used: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        """Units per second, at the pace."""
        return PACE * self.limit / self.window_s

    def room_at(self, units: int, ahead: int, now: float) -> float:
        """Return when `units` may be taken if nothing but `ahead` is taken before: `now`, or later.

        `units` are at most the limit: more never fits.
        """
        paced = max(self.paced_to, now) + ahead / self.rate - BURST * self.window_s
        return max(now, paced, self._window_at(units + ahead, now))

    def take(self, units: int, now: float) -> Bucket:
        """Return the bucket after `units` were taken."""
        aged = self._aged(now)
        used = (aged.used[0] + units, *aged.used[1:])
        return replace(aged, used=used, paced_to=max(self.paced_to, now) + units / self.rate)

    def settle(self, taken_at: float, difference: int, now: float) -> Bucket:
        """Return the bucket when a call used `difference` more than was taken for it, or less.

        What no window counts any more changes nothing.
        """
        aged = self._aged(now)
        index = aged.newest - self._part(taken_at)
        if not 0 <= index < PARTS_COUNTED:
            return aged
        used = list(aged.used)
        used[index] = max(0, used[index] + difference)
        return replace(aged, used=tuple(used), paced_to=aged.paced_to + difference / self.rate)

    def _window_at(self, wanted: int, now: float) -> float:
        aged = self._aged(now)
        excess = sum(aged.used) + wanted - self.limit
        if excess <= 0:
            return now
        part_s = self.window_s / PARTS
        at = now
        for index in range(PARTS_COUNTED - 1, -1, -1):
            if aged.used[index]:
                excess -= aged.used[index]
                at = (aged.newest - index + PARTS_COUNTED) * part_s
                if excess <= 0:
                    return at
        return at + excess / self.rate  # after those ahead, whose turns lie beyond this window

    def _aged(self, now: float) -> Bucket:
        """The same with the part of `now` as the newest. A clock that was set back stands still until it is through."""
        newest = max(self.newest, self._part(now))
        empty = (0,) * min(newest - self.newest, PARTS_COUNTED)
        used = (*empty, *self.used, *(0,) * PARTS_COUNTED)[:PARTS_COUNTED]
        return replace(self, newest=newest, used=used)

    def _part(self, at: float) -> int:
        return int(at / self.window_s * PARTS)
