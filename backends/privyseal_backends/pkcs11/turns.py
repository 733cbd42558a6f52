"""Turns that processes take at what a module bears from one at a time: to initialise it, and to log in through it.

The lock is the module's own file, which all have and need not write. Whoever else holds it is not waited for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from privyseal_backends.interface import UnavailableError

_PATIENCE_S, _LOOK_EVERY_S = 3.0, 0.005


def take_turn(module_path: str) -> int:
    """A descriptor that has the turn until it is closed. Raises `UnavailableError` where the file cannot be opened."""
    try:
        descriptor = os.open(module_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError("module", f"cannot open {module_path}: {error.strerror}", "look at the system") from None
    until_s = time.monotonic() + _PATIENCE_S
    while not _locked(descriptor) and time.monotonic() < until_s:
        time.sleep(_LOOK_EVERY_S)
    return descriptor


@contextlib.contextmanager
def turn(module_path: str) -> Iterator[None]:
    """Do something while no other process does. Raises `UnavailableError`; see `take_turn`."""
    descriptor = take_turn(module_path)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
