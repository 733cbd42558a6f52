"""A system's package when a program or library is missing: installed where that is allowed, else unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

CHECKOUT = Path(__file__).resolve().parent.parent
UNPACKED = CHECKOUT / ".demo" / "system"
"""Where packages are unpacked that may not be installed."""

Found = TypeVar("Found")


class SetupError(Exception):
    """What stops the set-up: one sentence that says what to do."""


@dataclass(frozen=True)
class Package:
    """A package, or several with spaces between them, by its names in three families of systems, and what it is for
    ("SoftHSM")."""

    purpose: str
    apt: str
    dnf: str
    apk: str

    def advice(self) -> str:
        """How a person installs it."""
        ways = f"apt-get install {self.apt} (Debian), dnf install {self.dnf} (Fedora), apk add {self.apk} (Alpine)"
        return f"{self.purpose} is missing and could not be fetched; install it: {ways}"


def say(text: str) -> None:
    """One line for the person who waits."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def ensure(package: Package, find: Callable[[], Found | None], *, unpack: bool = True) -> Found:
    """What `find` finds; where it finds nothing, after the package was installed or, with `unpack`, unpacked. Raises
    SetupError."""
    for fetch in (None, _install, _unpack) if unpack else (None, _install):
        if fetch is None or (shutil.which("apt-get") and fetch(package)):
            found = find()
            if found is not None:
                return found
    raise SetupError(package.advice())


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _as_root() -> list[str] | None:
    """What to put before a command so that root runs it; None when this user may not, or not without a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and _run("sudo", "-n", "true").returncode == 0:
        return ["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive"]
    return None


def _install(package: Package) -> bool:
    root = _as_root()
    if root is None:
        return False
    say(f"{package.purpose}: apt-get install {package.apt}")
    options = ("-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120")
    for attempt in range(3):
        if _run(*root, "apt-get", "install", *options, *package.apt.split()).returncode == 0:
            return True
        # The lists are missing or old, or another checkout holds apt's lock at this moment.
        time.sleep(2 * attempt)
        _run(*root, "apt-get", "update")
    return False


def _unpack(package: Package) -> bool:
    """Fetch the package, and those it needs that this system does not have, and lay their files under `UNPACKED`."""
    if not shutil.which("dpkg"):
        return False
    say(f"{package.purpose}: unpacking {package.apt} into {UNPACKED.relative_to(CHECKOUT)}/")
    downloads = CHECKOUT / ".demo" / "apt" / "archives"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir(parents=True)
    try:
        names = package.apt.split()
        if not _download(names, downloads, []):
            private = _private_lists()
            if _run("apt-get", *private, "update").returncode != 0 or not _download(names, downloads, private):
                return False
        UNPACKED.mkdir(parents=True, exist_ok=True)
        archives = sorted(downloads.glob("*.deb"))
        return all(_run("dpkg", "-x", str(archive), str(UNPACKED)).returncode == 0 for archive in archives)
    finally:
        shutil.rmtree(downloads.parent, ignore_errors=True)


def _private_lists() -> list[str]:
    """Options that let any user fetch package lists of its own, for a system whose lists were never fetched."""
    apt = CHECKOUT / ".demo" / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}/cache", "-o", "APT::Sandbox::User=root"]


def _download(names: list[str], folder: Path, options: list[str]) -> bool:
    plan = _run("apt-get", *options, "install", "-s", "--no-install-recommends", *names)
    needed = [line.split()[1] for line in plan.stdout.splitlines() if line.startswith("Inst ")]
    if plan.returncode != 0 or not needed:
        needed = names
    return _run("apt-get", *options, "download", *needed, cwd=folder).returncode == 0
