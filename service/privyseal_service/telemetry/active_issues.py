"""Active issues of this process: what does not work now although the service goes on. Each is logged once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from privyseal_service.telemetry.metrics import Counters, Series

_LOG = logging.getLogger(__name__)


class ActiveIssues:
    """Sentences by subject: "configuration", "listener 127.0.0.1:8443", "issuer https://…".

    An active issue does not stop the service: it keeps using what it had. `on_change` is called after every change, in
    the thread that made it.
    """

    def __init__(self, counters: Counters, on_change: Callable[[], None] = lambda: None) -> None:
        self.counters = counters
        self._on_change = on_change
        self._current: dict[str, str] = {}

    @property
    def current(self) -> Mapping[str, str]:
        """The active issues, by subject."""
        return dict(self._current)

    def set(self, subject: str, sentence: str, counter: Series) -> None:
        """Record an issue. The same sentence again is counted and not logged."""
        self.counters.add(counter)
        if self._current.get(subject) != sentence:
            _LOG.error("%s: %s", subject, sentence)
            self._current[subject] = sentence
            self._on_change()

    def clear(self, subject: str) -> None:
        """Remove the subject's issue, if it has one."""
        if self._current.pop(subject, None) is not None:
            _LOG.warning("%s: recovered", subject)
            self._on_change()
