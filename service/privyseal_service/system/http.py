"""HTTP client connections with a limit on the whole exchange. They follow no redirects."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class TimedConnection(http.client.HTTPConnection):
    """A connection, with TLS where there is a context.

    `idle_timeout_s` limits each wait for the server. `within` limits a whole exchange, however slowly the server sends:
    another thread shuts the socket down.
    """

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext | None, *, idle_timeout_s: float) -> None:
        # The Host header omits the scheme's default port. Without one, the base class cuts an IPv6 address.
        self.default_port = http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT
        super().__init__(host, port or self.default_port, timeout=idle_timeout_s)
        self._tls = context
        self._late = False

    def connect(self) -> None:
        """Connect and complete the TLS handshake. Raises OSError."""
        super().connect()
        if self._tls is not None:
            # The base class sets no socket that could be shut down during the handshake.
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        if self._late:
            # The time ran out while names were resolved or addresses tried: there was no socket to shut down yet.
            raise TimeoutError("no connection in time")
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit the block to so many seconds. Raises TimeoutError where it was cut short, even if the block saw no
        error: a truncated answer can look like a complete one."""
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
        """Shut the socket down, under a read that may be waiting in another thread."""
        self._late = True
        made = self.sock
        if made is not None:
            with suppress(OSError):
                socket.socket.shutdown(made, socket.SHUT_RDWR)
