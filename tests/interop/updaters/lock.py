"""Make package-lock.json again from package.json: `python tests/interop/updaters/lock.py`.

The tests reach a small part of these packages, and of the whole trees (600 packages) most would only be installed. So
the lock file names for some what they need and leaves out the rest, which `npm ci` takes at its word; and it leaves out
the registry's addresses.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NEEDED = {
    "@capawesome/cli": set(),
    "code-push-cli": {"jsonwebtoken", "q", "recursive-fs", "rimraf"},
    "@hot-updater/cli-tools": {"@hot-updater/core", "@hot-updater/plugin-core", "unconfig"},
    "hot-updater": {
        "@hot-updater/android-helper",
        "@hot-updater/apple-helper",
        "@hot-updater/cli-tools",
        "@hot-updater/core",
        "@hot-updater/plugin-core",
        "@hot-updater/server",
        "jiti",
    },
}
"""What the tests reach of a package's dependencies, where it is not all of them."""


def main() -> None:
    whole = whole_tree()["packages"]
    kept: dict[str, Any] = {}
    waiting = [f"node_modules/{name}" for name in whole[""]["dependencies"]]
    while waiting:
        at = waiting.pop()
        if at in kept:
            continue
        entry, name = whole[at], at.rpartition("node_modules/")[2]
        wanted = entry.get("dependencies", {})
        needed = {each: wanted[each] for each in wanted if each in NEEDED.get(name, wanted)}
        kept[at] = {field: entry[field] for field in ("version", "integrity", "license") if field in entry}
        if needed:
            kept[at]["dependencies"] = needed
        waiting += [place_of(each, at, whole) for each in needed]
    root = {field: whole[""][field] for field in ("name", "dependencies")}
    lock = {
        "name": root["name"],
        "lockfileVersion": 3,
        "requires": True,
        "packages": {"": root, **dict(sorted(kept.items()))},
    }
    (HERE / "package-lock.json").write_text(json.dumps(lock, indent=2) + "\n")


def whole_tree() -> dict[str, Any]:
    """What npm makes of package.json."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "package.json", folder)
        command = ["npm", "install", "--package-lock-only", "--omit=optional", "--legacy-peer-deps", "--ignore-scripts"]
        subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL)
        return json.loads((Path(folder) / "package-lock.json").read_text())


def place_of(name: str, wanted_by: str, whole: dict[str, Any]) -> str:
    """Where node finds a package that another requires: in its own node_modules, or in one above."""
    folders = [
        wanted_by,
        *(wanted_by[:at] for at in reversed(range(len(wanted_by))) if wanted_by[at:].startswith("/node_modules/")),
    ]
    for folder in folders:
        if f"{folder}/node_modules/{name}" in whole:
            return f"{folder}/node_modules/{name}"
    return f"node_modules/{name}"


if __name__ == "__main__":
    main()
