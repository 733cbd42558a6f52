"""A Redis made for tests: speaks RESP on loopback, knows the few commands that the `limits` library sends, and can be
away, silent or slow.

Scripts are not run: the three that the library loads are recognised by what they say, and done here as Redis does them.
Anything else is an error, so that a client that asks for more is seen.
"""

from __future__ import annotations

import hashlib
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO


class FakeRedis:
    """Counts with an end each. `password` is asked for where it is set; while `silent` is set, nothing is answered."""

    def __init__(self) -> None:
        self.password: str | None = None
        self.silent = threading.Event()
        self.calls = 0
        self._values: dict[bytes, tuple[int, float]] = {}
        self._scripts: dict[bytes, Callable[[list[bytes], list[bytes]], bytes]] = {}
        self._lock = threading.Lock()
        self.tls: ssl.SSLContext | None = None
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"{'redis' if self.tls is None else 'rediss'}://127.0.0.1:{self._port}/0"

    @contextmanager
    def running(self) -> Iterator[FakeRedis]:
        """Serve until the block ends."""
        self.start()
        try:
            yield self
        finally:
            self.silent.clear()
            self.stop()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), _Connection)
        self._server.redis = self
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and end every connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self._server.connections):
                connection.connection.close()
                connection.request.shutdown(2)
            self._server = None

    def answer(self, words: list[bytes]) -> bytes:
        """What a command gives."""
        with self._lock:
            self.calls += 1
            match words[0].upper(), words[1:]:
                case b"HELLO", _:
                    return b"%1\r\n+proto\r\n:3\r\n"
                case b"CLIENT", _:
                    return b"-ERR unknown subcommand\r\n"
                case b"PING", []:
                    return b"+PONG\r\n"
                case b"GET", [key]:
                    value, _ = self._value(key)
                    return b"_\r\n" if value is None else _bulk(str(value).encode())
                case b"SCRIPT", [_, text]:
                    digest = hashlib.sha1(text).hexdigest().encode()
                    self._scripts[digest] = self._script(text)
                    return _bulk(digest)
                case b"EVALSHA", [digest, count, *rest]:
                    if digest not in self._scripts:
                        return b"-NOSCRIPT No matching script.\r\n"
                    return self._scripts[digest](rest[: int(count)], rest[int(count) :])
                case _:
                    return b"-ERR unknown command\r\n"

    def _script(self, text: bytes) -> Callable[[list[bytes], list[bytes]], bytes]:
        if b"incrby" in text and b"expire" in text and b"pttl" not in text:
            return self._increase
        if b"pttl" in text:
            return self._acquire if b"amount" in text else self._window
        raise AssertionError("a script that this Redis does not know")

    def _value(self, key: bytes) -> tuple[int | None, float]:
        value, end_s = self._values.get(key, (None, 0.0))
        left_s = end_s - time.time()
        return (value, left_s) if left_s > 0 else (None, 0.0)

    def _increase(self, keys: list[bytes], arguments: list[bytes]) -> bytes:
        value, left_s = self._value(keys[0])
        amount = int(arguments[1])
        self._values[keys[0]] = ((value or 0) + amount, time.time() + (left_s if value else int(arguments[0])))
        return b":%d\r\n" % self._values[keys[0]][0]

    def _slide(self, keys: list[bytes], window_s: int) -> tuple[int, float, int, float]:
        value, left_s = self._value(keys[1])
        if value is not None and left_s < window_s:
            self._values[keys[0]] = (value, time.time() + left_s)
            self._values[keys[1]] = (0, time.time() + left_s + window_s)
        previous, previous_s = self._value(keys[0])
        current, current_s = self._value(keys[1])
        return previous or 0, previous_s, current or 0, current_s

    def _acquire(self, keys: list[bytes], arguments: list[bytes]) -> bytes:
        limit, window_s, amount = map(int, arguments)
        previous, previous_s, current, current_s = self._slide(keys, window_s)
        if amount > limit or int(previous * previous_s / window_s) + current + amount > limit:
            return b"_\r\n"
        self._values[keys[1]] = (current + amount, time.time() + (current_s or 2 * window_s))
        return b":1\r\n"

    def _window(self, keys: list[bytes], arguments: list[bytes]) -> bytes:
        previous, previous_s, current, current_s = self._slide(keys, int(arguments[0]))
        values = (previous, int(previous_s * 1000), current, int(current_s * 1000))
        return b"*4\r\n" + b"".join(_bulk(str(value).encode()) for value in values)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    redis: FakeRedis

    def __init__(self, *arguments: object) -> None:
        self.connections: set[_Connection] = set()
        super().__init__(*arguments)  # type: ignore[arg-type]


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.server.connections.add(self)
        known = self.server.redis.password is None
        try:
            while words := _command(self.rfile):
                while self.server.redis.silent.is_set():
                    time.sleep(0.005)
                given = b" ".join(words[1:])
                if not known and (self.server.redis.password or "").encode() in given.split():
                    known = True
                self.wfile.write(self.server.redis.answer(words) if known else b"-NOAUTH Authentication required.\r\n")
        except OSError:
            return
        finally:
            self.server.connections.discard(self)


def _command(stream: BinaryIO) -> list[bytes]:
    head = stream.readline()
    if not head.startswith(b"*"):
        return []
    words = []
    for _ in range(int(head[1:])):
        size = int(stream.readline()[1:])
        words.append(stream.read(size))
        stream.read(2)
    return words


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)
