"""The open key stores, by URI scheme, and opening a key in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from privyseal_backends.interface import (
    BackendError,
    Key,
    KeyStore,
    OpenStore,
    OperatorError,
)
from privyseal_backends.registry import backend, uri_scheme
from privyseal_service.keys.enrollment import check_enrollment
from privyseal_service.keys.served_key import close_key

if TYPE_CHECKING:
    from pydantic import JsonValue

    from privyseal_service.config.keys import KeyConfig

_LOG = logging.getLogger(__name__)


class Stores:
    """The key stores that are open in this process, one for each URI scheme, opened when a key first needs it."""

    def __init__(
        self, settings: Mapping[str, Mapping[str, JsonValue]], backends: Callable[[str], OpenStore] = backend
    ) -> None:
        self._settings = settings
        self._backends = backends
        self._open: dict[str, KeyStore] = {}

    def store(self, uri: str) -> KeyStore:
        """Return the store of a key's URI. Raises BackendError."""
        scheme = uri_scheme(uri)
        if scheme not in self._open:
            self._open[scheme] = self._backends(scheme)(self._settings.get(scheme, {}))
        return self._open[scheme]

    async def close(self) -> None:
        """Close all stores. A failure is logged, and the others are closed."""
        stores, self._open = list(self._open.values()), {}
        for result in await asyncio.gather(*(store.close() for store in stores), return_exceptions=True):
            if isinstance(result, BaseException):
                _LOG.error("a key store did not close: %s", result, exc_info=result)


async def open_key(config: KeyConfig, stores: Stores) -> Key:
    """Open one key and check that it can serve what it is enrolled for. Raises BackendError."""
    try:
        key = await stores.store(config.uri).open_key(config.uri, config.fingerprint)
    except BackendError:
        raise
    except Exception:  # noqa: BLE001 - a third party's backend must not stop the other keys
        _LOG.exception("key %r: its backend failed in a way that no backend should", config.name)
        error = OperatorError("backend", "it failed in a way that no backend should", "read the log")
        raise error from None
    try:
        check_enrollment(config, key.description)
    except BackendError:
        close_key(key)
        raise
    return key
