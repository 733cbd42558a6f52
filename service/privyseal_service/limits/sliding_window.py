"""The arithmetic of sliding windows: how much they hold, and when there is room for more. Pure."""

from __future__ import annotations

from typing import NamedTuple

_STEP_S = 1e-6
"""The shortest wait: weights fall in steps, and exactly at a step there is no room yet."""


class Window(NamedTuple):
    """The counts of the previous and the current window, and the seconds until the current one ends.

    The previous window weighs as large a part as it still covers of the last `window_s` seconds.
    """

    previous: int
    current: int
    left_s: float

    def held(self, window_s: float) -> float:
        """Return the weighted count."""
        return self.previous * min(1.0, self.left_s / window_s) + self.current


def room_after_s(window: Window, amount: int, window_s: float, cost: int) -> float:
    """Return the seconds until `cost` more fits into the amount; 0 when it fits now. A cost above the amount never
    fits."""
    if int(window.held(window_s)) + cost <= amount:
        return 0.0
    free = amount - cost - window.current
    if free >= 0 and window.previous:
        # Until this window ends, the weight of the previous one falls linearly.
        return max(_STEP_S, window.left_s - window_s * (free + 1) / window.previous)
    free = amount - cost
    if free < 0 or not window.current:
        return window.left_s
    return window.left_s + max(0.0, window_s * (1 - (free + 1) / window.current))
