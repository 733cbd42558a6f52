"""HTTP connections to others that end in time, however slowly the other side speaks, and follow nobody elsewhere."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class TimedConnection(http.client.HTTPConnection):
    """A connection, with TLS where there is a context. `silence_s` bounds each wait for the other side, and `within`
    all of an exchange: another thread cuts it, at whatever moment of its life."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext | None, *, silence_s: float) -> None:
        # The Host header leaves out the scheme's own port. Without any, the stock class takes an IPv6 address's end.
        self.default_port = http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT
        super().__init__(host, port or self.default_port, timeout=silence_s)
        self._tls = context
        self._late = False

    def connect(self) -> None:
        """Connect and shake hands. Raises OSError."""
        super().connect()
        if self._tls is not None:
            # The stock class has no socket that could be cut while hands are shaken.
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        if self._late:
            # Names were looked up, or addresses tried, until it was too late: there was nothing yet that could be cut.
            raise TimeoutError("it is too late")
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What is done in this block is over by then. Raises TimeoutError where it was cut short: what was cut off can
        look like an answer that ended."""
        guard = threading.Timer(seconds, self._cut)
        guard.daemon = True
        guard.start()
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError):
            if not self._late:
                raise
        finally:
            guard.cancel()
        if self._late:
            raise TimeoutError(f"no whole answer within {seconds:g} s")

    def _cut(self) -> None:
        """End it: its server keeps it open by saying little."""
        self._late = True
        made = self.sock
        if made is not None:
            with suppress(OSError):
                socket.socket.shutdown(made, socket.SHUT_RDWR)
