"""PINs that a token refused: no process of the service tries one again.

Tokens lock after a few wrong PINs. So the supervisor collects the refusals of all workers and sends them to the others,
also to those that are started later. A refusal holds until the service is restarted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privyseal_backends.interface import BackendError, Key, KeyStore, Latching, Observed, OperatorError
from privyseal_backends.registry import same_store
from privyseal_backends.wrappers import StoreWrapper, capability

if TYPE_CHECKING:
    from privyseal_backends.interface import OpenStore

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RefusedPin:
    """A PIN that a token refused: the URI of the key that was opened, and the error. The PIN itself is not in it."""

    uri: str
    message: str
    remedy: str

    def error(self) -> OperatorError:
        """Return the error for opening a key of the same token."""
        return OperatorError("PIN", self.message, self.remedy)


class PinLockout:
    """The refused PINs that this process knows. `on_refusal` is called for each that this process met itself."""

    def __init__(
        self, refused: Iterable[RefusedPin] = (), on_refusal: Callable[[RefusedPin], None] = lambda _: None
    ) -> None:
        self._refused = list(refused)
        self._on_refusal = on_refusal
        self._stores: list[Latching] = []

    @property
    def refused(self) -> tuple[RefusedPin, ...]:
        """All refused PINs."""
        return tuple(self._refused)

    def refusal(self, uri: str) -> OperatorError | None:
        """Return the error for a key whose token may be one that refused its PIN; None where it is not."""
        return next((each.error() for each in self._refused if same_store(each.uri, uri)), None)

    def add(self, refused: RefusedPin) -> bool:
        """Add a refused PIN; return whether it is new."""
        if refused in self._refused:
            return False
        self._refused.append(refused)
        for store in self._stores:
            store.latch(refused.uri, refused.error())
        return True

    def note(self, uri: str, error: BackendError | None) -> None:
        """Add the PIN of a key, if this error of the key is a refusal of it."""
        if isinstance(error, OperatorError) and error.part == "PIN" and self.refusal(uri) is None:
            refused = RefusedPin(uri, error.message, error.remedy)
            self.add(refused)
            self._on_refusal(refused)

    def guard(self, backends: Callable[[str], OpenStore]) -> Callable[[str], OpenStore]:
        """Return the backends with stores that open no key whose PIN was refused."""

        def guarded(scheme: str) -> OpenStore:
            open_store = backends(scheme)
            return lambda settings: self._guarded(open_store(settings))

        return guarded

    def _guarded(self, store: KeyStore) -> KeyStore:
        if (latching := capability(store, Latching)) is not None:
            self._stores.append(latching)
        return _GuardedStore(store, self)


class _GuardedStore(StoreWrapper):
    """A key store that sends no login to a token that refused its PIN."""

    def __init__(self, store: KeyStore, lockout: PinLockout) -> None:
        super().__init__(store)
        self._lockout = lockout

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        """Open the key; see `KeyStore.open_key`."""
        refusal = self._lockout.refusal(uri)
        if refusal is not None:
            raise refusal
        opening = asyncio.ensure_future(self._open(uri, fingerprint))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The login continues in the store, and its result must become known.
            opening.add_done_callback(_forget)
            raise

    async def _open(self, uri: str, fingerprint: str | None) -> Key:
        try:
            key = await self.wrapped.open_key(uri, fingerprint)
        except BackendError as error:
            self._lockout.note(uri, error)
            raise
        if isinstance(key, Observed):
            key.observe(lambda problem: self._lockout.note(uri, problem))  # a PIN can be refused later as well
        return key


def _forget(opening: asyncio.Future[Key]) -> None:
    """Stop observing a key whose caller was cancelled."""
    if opening.cancelled() or opening.exception() is not None:
        return
    key = opening.result()
    if isinstance(key, Observed):
        key.forget()
