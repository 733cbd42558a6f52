"""The arithmetic of sliding windows: how much they hold, and when there is room again. Pure."""

from __future__ import annotations

from typing import NamedTuple

_AN_INSTANT_S = 1e-6
"""Added to a wait: weights fall in steps, and right at a step there is no room yet."""


class Window(NamedTuple):
    """What was counted in the window before (as far as it still weighs) and in this one, and the seconds until this
    window ends. The window before weighs as much as of it is left in the last `window_s` seconds."""

    previous: int
    current: int
    left_s: float

    def held(self, window_s: float) -> float:
        """How much counts now."""
        return self.previous * min(1.0, self.left_s / window_s) + self.current


def room_after_s(window: Window, amount: int, window_s: float, cost: int) -> float:
    """Seconds until so much more fits into the amount; 0 when it does now. A cost above the amount never fits."""
    if int(window.held(window_s)) + cost <= amount:
        return 0.0
    free = amount - cost - window.current
    if free >= 0 and window.previous:
        # While this window lasts, the one before loses its weight evenly.
        return max(_AN_INSTANT_S, window.left_s - window_s * (free + 1) / window.previous)
    free = amount - cost
    if free < 0 or not window.current:
        return window.left_s
    return window.left_s + max(0.0, window_s * (1 - (free + 1) / window.current))
