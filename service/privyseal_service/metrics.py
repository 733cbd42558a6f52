"""Counts of what happened in this process, for whoever shows them: names and numbers, no library behind them."""

from __future__ import annotations

import threading
from collections import Counter


class Counters:
    """Counts that only grow, by name. Any thread may count."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Count something that happened; the constants of this module are the names."""
        with self._lock:
            self._counts[name] += amount

    def all(self) -> dict[str, int]:
        """All that was counted so far."""
        with self._lock:
            return dict(self._counts)


RELOADS = "reloads"
"""The configuration was read again, and took its effect."""
RELOAD_FAILURES = "reload_failures"
"""The configuration was read again, and could not be used."""
TLS_RELOADS = "tls_reloads"
"""A listener goes on with another certificate, key or other client CAs."""
TLS_RELOAD_FAILURES = "tls_reload_failures"
"""A listener's files changed into what cannot be used."""
ISSUER_REFRESHES = "issuer_refreshes"
"""An issuer's keys were read or fetched."""
ISSUER_FAILURES = "issuer_failures"
"""An issuer's keys could not be read or fetched."""
UNPROVEN_CALLS = "unproven_calls"
"""A caller did not prove who it is."""
LIMITED_CALLS = "limited_calls"
"""A call was refused, since its grant has allowed enough."""
UNCOUNTED_CALLS = "uncounted_calls"
"""A call was allowed without being counted, since the place where that is done was away."""
COUNTING_FAILURES = "counting_failures"
"""A call could not be counted."""
FROZEN_CALLS = "frozen_calls"
"""A call met a frozen key."""
