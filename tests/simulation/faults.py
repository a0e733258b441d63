"""Where an actor crashes: it loses its memory and whatever it had not yet done; what it did stays done."""

from __future__ import annotations

import random
from dataclasses import dataclass


class Crash(Exception):
    """The actor is gone."""


@dataclass
class Faults:
    """How likely an actor dies between any two of its effects."""

    rng: random.Random
    crash: float

    def maybe(self) -> None:
        """Die here, perhaps."""
        if self.rng.random() < self.crash:
            raise Crash
