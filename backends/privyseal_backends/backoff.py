"""Delays between retries: the one rule for every part of the service that retries."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """A delay of `first_s` after the first failure in a row, twice as long after each further one, up to `longest_s`.

    `jitter` is the random part of a delay: 0 is none, 1 is full jitter (anything from 0 to the whole delay). The
    object keeps no count, so one serves any number of retry loops.
    """

    first_s: float
    longest_s: float
    jitter: float = 0.0

    def most_s(self, failures: int) -> float:
        """Return the delay after `failures` failures in a row (1 or more), before jitter."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 64))

    def delay_s(self, failures: int) -> float:
        """Return the delay after `failures` failures in a row (1 or more), with jitter."""
        return jittered(self.most_s(failures), self.jitter)


def jittered(delay_s: float, jitter: float = 0.5) -> float:
    """Return the delay less a random part of it, at most `jitter` of it, so that processes do not retry together."""
    return delay_s * random.uniform(1.0 - jitter, 1.0)  # noqa: S311 - spreads load, protects nothing
