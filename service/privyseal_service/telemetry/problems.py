"""What is wrong with this process now, and since when it is not: told to the log once, and kept for health's detail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from privyseal_service.telemetry.metrics import Counters, Series

_LOG = logging.getLogger(__name__)


class Problems:
    """Sentences by what they are about: "configuration", "listener 127.0.0.1:8443", "issuer https://…". Whatever is
    here does not stop the service: it goes on with what it had. `tell` hears of every change, from any thread."""

    def __init__(self, counters: Counters, tell: Callable[[], None] = lambda: None) -> None:
        self.counters = counters
        self._tell = tell
        self._now: dict[str, str] = {}

    @property
    def now(self) -> Mapping[str, str]:
        """What is wrong now."""
        return dict(self._now)

    def arise(self, about: str, sentence: str, counter: Series) -> None:
        """Something is wrong; the same sentence again is counted, and not logged again."""
        self.counters.add(counter)
        if self._now.get(about) != sentence:
            _LOG.error("%s: %s", about, sentence)
            self._now[about] = sentence
            self._tell()

    def pass_over(self, about: str) -> None:
        """It is not wrong, or not any more."""
        if self._now.pop(about, None) is not None:
            _LOG.warning("%s: what was wrong is not wrong any more", about)
            self._tell()
