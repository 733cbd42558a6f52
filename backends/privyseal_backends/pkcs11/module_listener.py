"""What a PKCS#11 module tells others: those that listen to it, and what is attached to it."""

from __future__ import annotations

from typing import Protocol


class Attachment(Protocol):
    """What depends on a module, and is closed before it. `close` raises only `PKCS11Error` and `CodeError`."""

    @property
    def in_use(self) -> bool:
        """Whether it holds something that would be lost with the module's state."""

    def close(self) -> None:
        """End it."""

    def forget(self) -> None:
        """Drop what it holds without a call: the module's state is void."""


class ModuleListener(Protocol):
    """Is called when something happens to a module, on any thread."""

    @property
    def healthy(self) -> bool:
        """Whether it has what it needs of the module."""

    def reinitialized(self) -> None:
        """The module was begun anew, or could not be, and nobody else is let in yet. All sessions, handles and logins
        are void."""

    def call_hangs(self) -> None:
        """A call is inside for longer than it may be. Told again and again while that is so."""
