"""Logs why callers could not be authenticated: a line each and, above a rate, only their number. Anyone can call."""

from __future__ import annotations

import logging
import time

from privyseal_service.audit.denial_meter import DenialMeter
from privyseal_service.domain.caller import IdentityError

_LOG = logging.getLogger(__name__)

LINES_PER_S = 1.0
LINES_AT_ONCE = 20.0
_MOST_HOSTS = 20


class IdentityFailures:
    """Logs failed authentication by the hosts that the calls come from: twenty hosts at a time, the others together.

    Call `sum_up` once a second or so, and at the end. For one thread.
    """

    def __init__(self) -> None:
        self._meter = DenialMeter(rate=LINES_PER_S, burst=LINES_AT_ONCE, callers=_MOST_HOSTS)

    def report(self, request_id: str, address: str, error: IdentityError) -> None:
        """Log why a call was denied, or count it. `address` ends in a port, which differs with every connection."""
        host = address.rpartition(":")[0]
        if self._meter.admit(host, "", now_s=time.monotonic(), time_us=0):
            _LOG.warning("request %s from %s: %s", request_id, address, error)

    def sum_up(self) -> None:
        """Log how many were counted since the last time."""
        for summary in self._meter.flush(now_s=time.monotonic(), time_us=0):
            _LOG.warning("%d more calls from %s could not be authenticated", summary.count, summary.caller)
