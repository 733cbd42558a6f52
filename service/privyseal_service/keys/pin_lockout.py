"""Refused PINs, remembered for their tokens: what a token refused once is not tried again by any process of ours.

Tokens lock after a few wrong PINs, so the supervisor keeps what one worker learned and tells it to all others, those
that are started later among them. A latch holds until the service is started again.
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
class Latch:
    """A PIN that a token refused: the URI of the key that was opened, and what was said. There is no PIN in it."""

    uri: str
    message: str
    remedy: str

    def error(self) -> OperatorError:
        """The error that opening a key of the same token meets."""
        return OperatorError("PIN", self.message, self.remedy)


class Latches:
    """The latches of this process. `tell` hears of each that is new here."""

    def __init__(self, latches: Iterable[Latch] = (), tell: Callable[[Latch], None] = lambda _: None) -> None:
        self._latches = list(latches)
        self._tell = tell
        self._stores: list[Latching] = []

    @property
    def all(self) -> tuple[Latch, ...]:
        """All that there are."""
        return tuple(self._latches)

    def refusal(self, uri: str) -> OperatorError | None:
        """The error for a key whose token may be one that refused its PIN."""
        return next((latch.error() for latch in self._latches if same_store(latch.uri, uri)), None)

    def add(self, latch: Latch) -> bool:
        """Learn of a latch; whether it is new."""
        if latch in self._latches:
            return False
        self._latches.append(latch)
        for store in self._stores:
            store.latch(latch.uri, latch.error())
        return True

    def note(self, uri: str, error: BackendError | None) -> None:
        """Look at what a key met, and latch when it was its PIN."""
        if isinstance(error, OperatorError) and error.part == "PIN" and self.refusal(uri) is None:
            latch = Latch(uri, error.message, error.remedy)
            self.add(latch)
            self._tell(latch)

    def guard(self, backends: Callable[[str], OpenStore]) -> Callable[[str], OpenStore]:
        """The same backends, whose stores look at the latches before they open a key."""

        def guarded(scheme: str) -> OpenStore:
            open_store = backends(scheme)
            return lambda settings: self._guarded(open_store(settings))

        return guarded

    def _guarded(self, store: KeyStore) -> KeyStore:
        if (latching := capability(store, Latching)) is not None:
            self._stores.append(latching)
        return _GuardedStore(store, self)


class _GuardedStore(StoreWrapper):
    """A key store that never asks a token again that refused its PIN."""

    def __init__(self, store: KeyStore, latches: Latches) -> None:
        super().__init__(store)
        self._latches = latches

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        """Open the key; see `KeyStore.open_key`."""
        refusal = self._latches.refusal(uri)
        if refusal is not None:
            raise refusal
        opening = asyncio.ensure_future(self._open(uri, fingerprint))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # What has begun ends, PIN and all, and what the token says to it is to be known.
            opening.add_done_callback(_let_go)
            raise

    async def _open(self, uri: str, fingerprint: str | None) -> Key:
        try:
            key = await self.wrapped.open_key(uri, fingerprint)
        except BackendError as error:
            self._latches.note(uri, error)
            raise
        if isinstance(key, Observed):
            key.observe(lambda problem: self._latches.note(uri, problem))  # a PIN can be refused later as well
        return key


def _let_go(opening: asyncio.Future[Key]) -> None:
    """Nobody waits for the key any more."""
    if opening.cancelled() or opening.exception() is not None:
        return
    key = opening.result()
    if isinstance(key, Observed):
        key.forget()
