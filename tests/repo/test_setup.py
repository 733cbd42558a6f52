"""scripts/setup: which Python it takes, where it gets packages from, and what it says when it cannot."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

SETUP = CHECKOUT / "scripts" / "setup"


def program(folder: Path, name: str, text: str) -> Path:
    """A small shell script that stands for a program of the system."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code that imports the scripts, with the programs in `folder` before all others."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "scripts"), "PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


ENSURE = """
import os, sys
from pathlib import Path
import system_packages as packages
packages.CHECKOUT = Path({checkout!r})
packages.UNPACKED = packages.CHECKOUT / ".demo" / "system"
os.geteuid = lambda: {user}
packages.time.sleep = lambda seconds: None
found = lambda: next((path for path in map(Path, {places!r}) if path.exists()), None)
try:
    print(packages.ensure(packages.Package("Thing", apt="thing-deb", dnf="thing-rpm", apk="thing-apk"), found))
except packages.SetupError as error:
    sys.exit(str(error))
"""


class System:
    """A machine with the programs that a test puts there, and a checkout in it."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.checkout = folder / "bin", folder / "checkout"
        self.programs.mkdir()
        self.checkout.mkdir()
        self.log = folder / "log"
        self.log.touch()
        self.installed, self.unpacked = folder / "installed", self.checkout / ".demo" / "system" / "thing"
        for tool in ("touch", "mkdir", "sh"):
            (self.programs / tool).symlink_to(f"/bin/{tool}")

    def has(self, name: str, text: str) -> None:
        program(self.programs, name, f'echo "{name} $*" >> "{self.log}"\n{text}')

    def ensure(self, user: int) -> subprocess.CompletedProcess[str]:
        places = [str(self.installed), str(self.unpacked)]
        return python(ENSURE.format(checkout=str(self.checkout), user=user, places=places), self.programs)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def system(tmp_path):
    return System(tmp_path)


def test_what_is_there_is_used_as_it_is(system):
    system.installed.touch()
    system.has("apt-get", "exit 1")

    assert system.ensure(user=0).stdout == f"{system.installed}\n"
    assert system.calls() == []


def test_root_installs(system):
    system.has("apt-get", f'touch "{system.installed}"')
    done = system.ensure(user=0)

    assert done.stdout == f"{system.installed}\n"
    assert done.stderr == "setup: Thing: apt-get install thing-deb\n"
    assert len(system.calls()) == 1, "the lists are not fetched unless they are needed"


def test_root_fetches_the_lists_when_the_package_is_not_found(system):
    system.has("apt-get", f'[ "$1" = update ] && touch "{system.installed}-list"; [ -e "{system.installed}-list" ] '
               f'&& touch "{system.installed}"')  # fmt: skip

    assert system.ensure(user=0).returncode == 0
    assert [call.split()[1] for call in system.calls()] == ["install", "update", "install"]


def test_sudo_is_used_where_it_asks_for_no_password(system):
    system.has("apt-get", f'touch "{system.installed}"')
    system.has("sudo", 'shift; while [ "$1" = env ] || [ "$1" = DEBIAN_FRONTEND=noninteractive ]; do shift; done; "$@"')
    program(system.programs, "true", "exit 0")

    assert system.ensure(user=1000).returncode == 0
    assert [call.split()[0] for call in system.calls()] == ["sudo", "sudo", "apt-get"]


def test_who_may_not_install_unpacks_into_the_checkout(system):
    system.has("sudo", "exit 1")
    system.has(
        "apt-get",
        'case "$*" in *"install -s"*) echo "Inst thing-lib (1)"; echo "Inst thing-deb (2)";;\n'
        "download*) touch thing-deb.deb thing-lib.deb;; *) exit 1;; esac",
    )
    system.has("dpkg", 'mkdir -p "$3"; touch "$3/thing"')
    done = system.ensure(user=1000)

    assert done.stdout == f"{system.unpacked}\n", done.stderr
    assert "apt-get download thing-lib thing-deb" in system.calls()
    assert sum(call.startswith("dpkg -x ") for call in system.calls()) == 2
    assert [path.name for path in (system.checkout / ".demo").iterdir()] == ["system"], "what was fetched is gone"


def test_who_may_not_install_fetches_lists_of_its_own(system):
    system.has(
        "apt-get",
        'case "$*" in *" update") touch "$0.listed";; *download*) [ -e "$0.listed" ] && touch thing.deb;; esac',
    )
    system.has("dpkg", 'mkdir -p "$3"; touch "$3/thing"')

    assert system.ensure(user=1000).returncode == 0
    assert any(f"Dir::State::lists={system.checkout}" in call and " update" in call for call in system.calls())


@pytest.mark.parametrize("programs", [(), ("apt-get",), ("apt-get", "dpkg")], ids=" ".join)
def test_where_nothing_works_a_sentence_names_the_package(system, programs):
    for name in programs:
        system.has(name, "exit 100")
    failed = system.ensure(user=1000)

    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "Thing is missing and could not be fetched; install it: apt-get install thing-deb (Debian), "
        "dnf install thing-rpm (Fedora), apk add thing-apk (Alpine)"
    )


def test_a_python_that_is_named_has_to_fit(tmp_path):
    old = program(tmp_path, "python", "exit 1")
    for named in (str(old), str(tmp_path / "missing")):
        refused = subprocess.run(
            [SETUP], env={**os.environ, "PYTHON": named}, capture_output=True, text=True, check=False
        )

        assert refused.returncode == 2
        assert refused.stderr == (
            f"setup: PYTHON={named} is not a Python 3.11 or newer with the venv module; name another one\n"
        )


def test_the_first_python_that_fits_is_taken(tmp_path):
    """An old python3 and a pyenv shim that has no version are passed over."""
    copy = tmp_path / "checkout" / "scripts"
    copy.mkdir(parents=True)
    (copy / "setup").write_bytes(SETUP.read_bytes())
    (copy / "setup").chmod(0o755)
    (copy / "setup.py").write_text("import sys\nprint('setup.py', *sys.argv[1:])\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "python3", "exit 1")
    program(programs, "python3.13", "exit 127")
    program(programs, "python3.12", f'exec "{sys.executable}" "$@"')
    taken = subprocess.run(
        [copy / "setup", "--for-tests"],
        env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (taken.stdout, taken.stderr) == ("setup.py --for-tests\n", "")


@pytest.mark.parametrize(
    ("module", "told"),
    [("tests.support.capgo_cli", "npm is missing"), ("tests.support.client_tools", "npm is missing")],
)
def test_what_the_tests_need_and_set_up_does_not_install_is_named(module, told, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import setup; exec(setup.FETCH.replace('argv[1]', 'argv[2]'))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(CHECKOUT / "scripts"), module],
        cwd=CHECKOUT,
        env={**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(told)
    assert "install npm" in done.stdout
