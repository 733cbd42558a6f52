"""Find the file of a PKCS#11 module, and the init string that the settings have for it."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path

from privyseal_backends.interface import OperatorError
from privyseal_backends.pkcs11.address import KeyAddress


def locate(uri: KeyAddress) -> str:
    """The file of the URI's module (RFC 7512, 2.3). `module-path` is the file, or a folder in which to look for
    `module-name`; a bare name is looked for where distributions put modules. Raises `OperatorError`."""
    if uri.module_path is not None:
        path = Path(uri.module_path)
        if not path.is_dir():
            if not path.exists():
                raise OperatorError("module", f"there is no module {path}", "install it, or correct module-path")
            return str(path)
        if uri.module_name is None:
            raise OperatorError("module", f"the module-path {path} is a folder", "name the file in it")
        folders: tuple[Path, ...] = (path,)
    else:
        folders = _module_folders()
    name = Path(uri.module_name or "").name
    for folder in folders:
        for file in (folder / f"{name}.so", folder / f"lib{name}.so"):
            if file.exists():
                return str(file)
    places = ", ".join(map(str, folders))
    raise OperatorError("module", f"no module named {name} is in {places}", "give its file in module-path")


def _module_folders() -> tuple[Path, ...]:
    triplet = sysconfig.get_config_var("MULTIARCH")
    libraries = (f"/usr/lib/{triplet}",) if triplet else ()
    return tuple(
        Path(library) / folder
        for library in (*libraries, "/usr/lib64", "/usr/lib", "/usr/local/lib")
        for folder in ("pkcs11", "softhsm", ".")
    )


def init_string(path: str, init_strings: Mapping[str, str]) -> str | None:
    """The vendor's string for C_Initialize that the settings have for the module at `path`."""
    real = Path(path).resolve()
    return next((text for name, text in init_strings.items() if Path(name).resolve() == real), None)
