"""Turns that processes take at what a module bears from one at a time: to initialise it, and to log in through it.

The lock is the module's own file, which all have and need not write. Whoever else holds it is not waited for long: a
start then goes on without its turn, and a login does not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from privyseal_backends.file_lock import lock
from privyseal_backends.interface import UnavailableError

_PATIENCE_S = 3.0


def take_turn(module_path: str, *, must: bool = False) -> int:
    """A descriptor that has the turn until it is closed; unless it `must`, it may be without. Raises `UnavailableError`
    where the file cannot be opened, and where a turn that must be had does not come."""
    try:
        descriptor = os.open(module_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError("module", f"cannot open {module_path}: {error.strerror}", "look at the system") from None
    try:
        locked = lock(descriptor, _PATIENCE_S)
    except OSError:
        locked = True  # the file system has no locks, so no process can take turns
    if must and not locked:
        os.close(descriptor)
        sentence = f"another process is logging in through {module_path}, or has a lock on that file"
        raise UnavailableError("module", sentence, "if it stays so, find that process with lslocks")
    return descriptor


@contextlib.contextmanager
def turn(module_path: str) -> Iterator[None]:
    """Do something while no other process does. Raises `UnavailableError`; see `take_turn`."""
    descriptor = take_turn(module_path)
    try:
        yield
    finally:
        os.close(descriptor)
