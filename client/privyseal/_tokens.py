"""Bearer tokens: where the next call's comes from."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

from privyseal._files import read_small, reason
from privyseal.configuration import Connection
from privyseal.errors import ConfigurationError

COMMAND_TIMEOUT_S = 30.0
COMMAND_REUSE_S = 60.0
"""How long the answer of a token command is used again: CI systems give tokens that live for some minutes."""

_TOKEN68 = re.compile(rb"[A-Za-z0-9\-._~+/]+=*\Z")
"""What may stand behind `Bearer` (RFC 6750, 2.1)."""


class TokenSource(Protocol):
    """Gives the token for a call."""

    blocks: bool
    """Whether `__call__` may take long enough to stall an event loop."""

    def __call__(self) -> str:
        """The token. Raises ConfigurationError or FileUnusableError."""


def token_source(connection: Connection) -> TokenSource | None:
    """The source that the connection names, None when the caller proves itself otherwise."""
    if connection.token is not None:
        return _FixedToken(connection.token)
    if connection.token_file is not None:
        return _TokenFile(connection.token_file)
    if connection.token_command is not None:
        return _TokenCommand(connection.token_command)
    return None


def _checked(token: bytes, origin: str) -> str:
    token = token.strip()
    if not _TOKEN68.match(token):
        raise ConfigurationError(f"{origin} holds no bearer token", remedy="it must hold only the token, on one line")
    return token.decode()


class _FixedToken:
    blocks = False

    def __init__(self, token: str) -> None:
        self._token = _checked(token.encode(errors="replace"), "--token or PRIVYSEAL_TOKEN")

    def __call__(self) -> str:
        return self._token


class _TokenFile:
    """Read again for every call, since whoever writes it replaces it before it expires."""

    blocks = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> str:
        return _checked(read_small(self._path), str(self._path))


class _TokenCommand:
    blocks = True

    def __init__(self, command: str) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(
                f"the token command cannot be read: {error}", remedy="correct its quotes"
            ) from None
        if not self._arguments:
            raise ConfigurationError("the token command is empty", remedy="name a program that prints a token")
        self._lock = threading.Lock()
        self._token = ""
        self._used_until_s = 0.0

    def __call__(self) -> str:
        with self._lock:
            if time.monotonic() >= self._used_until_s:
                self._token = self._run()
                self._used_until_s = time.monotonic() + COMMAND_REUSE_S
            return self._token

    def _run(self) -> str:
        name = self._arguments[0]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command, run without a shell
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"the token command {name} gave no token within {COMMAND_TIMEOUT_S:.0f} s", remedy="run it by hand"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"the token command {name} cannot be run ({reason(error)})", remedy="check its path"
            ) from None
        if done.returncode:
            raise ConfigurationError(f"the token command {name} ended with {done.returncode}", remedy="run it by hand")
        return _checked(done.stdout, f"the output of {name}")
