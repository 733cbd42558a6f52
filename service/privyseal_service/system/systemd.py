"""Notifications to systemd that the service is ready, or stops (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

_LOG = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send `READY=1` or `STOPPING=1` to systemd, if it waits for that. A failure is only logged."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.connect(address)
            notifier.sendall(state.encode())
    except OSError as error:
        _LOG.warning("systemd could not be notified of %s: %s", state, error.strerror)
