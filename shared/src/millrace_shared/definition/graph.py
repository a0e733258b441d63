"""The graph that `needs` draws, as pure functions of `{step: its needs}`.

Needs that name no step are ignored here: `validation.py` reports them. All functions keep the order of the
mapping where the graph leaves a choice, so results are the same on every run.
"""

from collections.abc import Iterable, Mapping

Needs = Mapping[str, Iterable[str]]


def children(needs: Needs) -> dict[str, tuple[str, ...]]:
    """Returns for every step the steps that need it. Linear in steps and needs."""
    found: dict[str, dict[str, None]] = {step: {} for step in needs}
    for step, parents in needs.items():
        for parent in parents:
            if parent in found:
                found[parent][step] = None
    return {step: tuple(kids) for step, kids in found.items()}


def topological_order(needs: Needs) -> tuple[str, ...]:
    """Returns the steps so that each comes after its needs. Steps on or behind a cycle are left out."""
    waiting = {step: len({parent for parent in parents if parent in needs}) for step, parents in needs.items()}
    kids = children(needs)
    order = [step for step, count in waiting.items() if count == 0]
    for step in order:  # the list grows while it is read: it is the queue
        for kid in kids[step]:
            waiting[kid] -= 1
            if waiting[kid] == 0:
                order.append(kid)
    return tuple(order)


def find_cycle(needs: Needs) -> tuple[str, ...] | None:
    """Returns one cycle as `(a, b, c, a)`, each step needing the next one, or None if there is none."""
    ordered = set(topological_order(needs))
    rest = [step for step in needs if step not in ordered]
    if not rest:
        return None
    # Every step left has a need that is left too, so walking along needs comes back to a step already seen.
    seen: dict[str, int] = {}
    walk: list[str] = []
    step = rest[0]
    while step not in seen:
        seen[step] = len(walk)
        walk.append(step)
        step = next(parent for parent in needs[step] if parent in needs and parent not in ordered)
    return (*walk[seen[step] :], step)


class Ancestors:
    """Which steps come before which. Steps on or behind a cycle have no ancestors here.

    One bit per step: 10,000 steps in a row take 6 MB and some milliseconds, where sets would take gigabytes.
    """

    def __init__(self, needs: Needs) -> None:
        order = topological_order(needs)
        self._bit = {step: 1 << position for position, step in enumerate(order)}
        self._before: dict[str, int] = {}
        for step in order:
            bits = 0
            for parent in needs[step]:
                if parent in self._before:
                    bits |= self._before[parent] | self._bit[parent]
            self._before[step] = bits

    def __contains__(self, step: object) -> bool:
        """Tells whether a step's ancestors are known: it is not on or behind a cycle."""
        return step in self._before

    def has(self, step: str, ancestor: str) -> bool:
        """Tells whether `ancestor` comes before `step`. Constant in the number of steps but for its bits."""
        bit = self._bit.get(ancestor)
        return bit is not None and bool(self._before.get(step, 0) & bit)

    def of(self, step: str) -> tuple[str, ...]:
        """Returns all ancestors of a step in topological order."""
        bits = self._before.get(step, 0)
        return tuple(name for name, bit in self._bit.items() if bits & bit)


def ancestors(needs: Needs) -> Ancestors:
    """Returns an index of who comes before whom."""
    return Ancestors(needs)
