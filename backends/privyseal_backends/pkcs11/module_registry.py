"""The PKCS#11 modules of this process, one object for each file."""

from __future__ import annotations

import threading
from pathlib import Path

from privyseal_backends.pkcs11.module import Module


class ModuleRegistry:
    """Every module of this process, by its file: a module has one state per process, however often it is opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._modules: dict[str, Module] = {}

    def acquire(self, path: str, reserved: str | None) -> Module:
        """The module at `path`, initialised and counted in; `Module.release` counts out. Raises `BackendError`."""
        module = self.at(path)
        module.acquire(reserved)
        return module

    def at(self, path: str) -> Module:
        """Return the module at `path` as it is; it may not be loaded yet."""
        real = str(Path(path).resolve())
        with self._lock:
            return self._modules.setdefault(real, Module(real))


MODULES = ModuleRegistry()
"""This process's modules. PKCS#11 keeps a module's state per process, so this is one object per process too. A module
whose last user has gone is finalised; only its name and its code remain."""
