"""Published npm packages for tests: installed from a lock file into a cache folder outside the tree, then offline.

A lock file holds no registry's address, so that the machine's own is used; npm checks the hashes in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

from tests.support.needed import program


def install(locked: Path, *, command: str = "ci") -> Path:
    """The folder that has the `node_modules` of `locked`, which has package.json and package-lock.json; installed when
    it is missing, once for runs at the same time. `command` is npm's: `ci` takes the lock file at its word."""
    files = [locked / name for name in ("package.json", "package-lock.json")]
    known_by = sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "privyseal" / f"npm-{locked.name}-{known_by}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            for file in files:
                shutil.copy(file, folder)
            installed = subprocess.run(
                [
                    program("npm"),
                    command,
                    "--omit=optional",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                    "--fetch-retries=5",
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
            )
            if installed.returncode != 0:
                raise RuntimeError(f"npm could not install {locked.name}: {installed.stderr[-2000:]}")
            done.touch()
    return folder
