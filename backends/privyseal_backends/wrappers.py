"""Wrappers of key stores that hide nothing of what the wrapped store offers."""

from __future__ import annotations

from typing import TypeVar

from privyseal_backends.interface import Key, KeyStore

_P = TypeVar("_P")


class StoreWrapper:
    """A key store that stands before another one. A subclass replaces what it changes."""

    def __init__(self, wrapped: KeyStore) -> None:
        self.wrapped = wrapped

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        """Open a key; see `KeyStore.open_key`."""
        return await self.wrapped.open_key(uri, fingerprint)

    async def close(self) -> None:
        """Close the store; see `KeyStore.close`."""
        await self.wrapped.close()


def capability(offered: object, protocol: type[_P]) -> _P | None:
    """Return what offers an optional protocol of `privyseal_backends.interface`: a key, a store, or the one inside its
    wrappers. None where none of them offers it."""
    while not isinstance(offered, protocol):
        if not isinstance(offered, StoreWrapper):
            return None
        offered = offered.wrapped
    return offered
