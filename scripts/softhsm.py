"""Find SoftHSM: the PKCS#11 module, and the program that initialises tokens."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from system_packages import UNPACKED, Package

PACKAGE = Package("SoftHSM", apt="softhsm2", dnf="softhsm", apk="softhsm")

_MODULES = (
    "usr/lib/softhsm/libsofthsm2.so",  # Debian, Alpine
    "usr/lib64/pkcs11/libsofthsm2.so",  # Fedora
    "usr/lib/pkcs11/libsofthsm2.so",  # Arch
    "usr/local/lib/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True)
class SoftHsm:
    """Where SoftHSM is. `root` is the folder that it was unpacked into, None for one that the system has."""

    module: Path
    util: Path
    root: Path | None

    def environment(self) -> dict[str, str]:
        """Variables that let other programs find it: `PRIVYSEAL_SOFTHSM_MODULE`, and for an unpacked one the search
        paths of programs and libraries."""
        found = {"PRIVYSEAL_SOFTHSM_MODULE": str(self.module)}
        if self.root is not None:
            found["PATH"] = _joined(self.util.parent, os.environ.get("PATH", os.defpath))
            libraries = sorted({path.parent for path in self.root.glob("**/lib/*/*.so.*")})
            if libraries:
                found["LD_LIBRARY_PATH"] = _joined(*libraries, os.environ.get("LD_LIBRARY_PATH", ""))
        return found


def _joined(*paths: Path | str) -> str:
    return os.pathsep.join(str(path) for path in paths if str(path))


def find() -> SoftHsm | None:
    """SoftHSM as `PRIVYSEAL_SOFTHSM_MODULE` names it, as the system has it, or as it was unpacked before; else None."""
    named = os.environ.get("PRIVYSEAL_SOFTHSM_MODULE")
    if named:
        util = shutil.which("softhsm2-util")
        return SoftHsm(Path(named), Path(util), None) if util and Path(named).is_file() else None
    for root in (None, UNPACKED):
        base = root or Path("/")
        module = next((base / place for place in _MODULES if (base / place).is_file()), None)
        util = shutil.which("softhsm2-util", path=None if root is None else str(root / "usr/bin"))
        if module and util:
            return SoftHsm(module, Path(util), root)
    return None
