"""Make this checkout ready: a virtual environment from the lock, SoftHSM, and what the tests need.

It uses the standard library alone, says one line for each thing that it does and nothing when all is as it should be.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import softhsm
import toolchains
from system_packages import CHECKOUT, UNPACKED, Package, SetupError, ensure, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "privyseal-setup"
PIP_WHEEL = Package("pip", apt="python3-pip-whl", dnf="python3-pip-wheel", apk="py3-pip")
SYSTEMD = Package("systemd-analyze", apt="systemd", dnf="systemd", apk="systemd")
OPENSSL = Package("openssl", apt="openssl", dnf="openssl", apk="openssl")
COMPILER = Package("a C compiler", apt="gcc libc6-dev", dnf="gcc glibc-devel", apk="gcc musl-dev")
# Helpers of the tests: each keeps what it installs in the user's cache folder, and does nothing the second time.
FETCH = "import sys; sys.path.insert(0, ''); from tests.support import needed; needed.install(sys.argv[1])"
PUBLISHED = (
    "tests.support.ministack",
    "tests.support.capgo_cli",
    "tests.support.updater_tools",
    "tests.support.client_tools",
)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the checkout's lock, so that two runs at once do the work once."""
    folder = CHECKOUT / ".demo"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _base_python() -> Path:
    """The Python under the virtual environment that runs this, or the one that runs it."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def _wanted() -> str:
    """A digest of all that decides what .venv holds: the lock, the project file, the Python, and where it stands."""
    digest = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        digest.update(hashlib.sha256((CHECKOUT / name).read_bytes()).digest())
    digest.update(f"{_base_python()}\n{sys.version}\n{CHECKOUT}".encode())
    return digest.hexdigest()


def _succeeds(python: Path, *arguments: str) -> bool:
    return subprocess.run([python, "-I", *arguments], capture_output=True, check=False).returncode == 0


def _is_ours() -> bool:
    """Whether .venv was made by this Python, for this place, and has a pip."""
    where = f"import sys; sys.exit(sys.prefix != {str(VENV)!r} or sys.version != {sys.version!r})"
    return PYTHON.exists() and _succeeds(PYTHON, "-c", where) and _succeeds(PYTHON, "-m", "pip", "--version")


def _pip_wheel() -> Path | None:
    for root in (Path("/"), UNPACKED):
        for folder in ("usr/share/python-wheels", "usr/share/python3-wheels"):
            wheels = sorted((root / folder).glob("pip-*.whl"))
            if wheels:
                return wheels[-1]
    return None


def _make_venv() -> None:
    """A fresh .venv with pip, also where Debian has split ensurepip off into a package of its own."""
    version = ".".join(map(str, sys.version_info[:3]))
    say(f"making .venv with Python {version}")
    shutil.rmtree(VENV, ignore_errors=True)
    base = _base_python()
    failure = f"Python {version} could not make a virtual environment"
    if _succeeds(base, "-m", "ensurepip", "--version"):
        _must(failure, str(base), "-m", "venv", str(VENV))
        return
    wheel = ensure(PIP_WHEEL, _pip_wheel)
    _must(failure, str(base), "-m", "venv", "--without-pip", str(VENV))
    pip = (str(PYTHON), "-I", str(wheel / "pip"))
    _must(
        f"{wheel.name} could not install itself; install python3-venv and run this again",
        *(*pip, "install", "--quiet", "--no-index", "--find-links", str(wheel.parent), "pip"),
    )


def _must(failure: str, *command: str) -> str:
    """Run `command`, and return what it printed; when it fails, show what it wrote and raise SetupError with
    `failure`."""
    # A user's "install into my home folder" does not apply to a virtual environment.
    environment = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        raise SetupError(failure)
    return done.stdout


def _fill_venv() -> None:
    pip = (str(PYTHON), "-I", "-m", "pip", "install", "--quiet")
    say("installing the locked packages")
    _must(
        "pip could not install the locked packages, see above; a mirror is set in pip.conf or PIP_INDEX_URL",
        *(*pip, "--require-hashes", "-r", "requirements.lock"),
    )
    _must("pip could not install this checkout, see above", *(*pip, "--no-deps", "--no-build-isolation", "-e", "."))


def _prepare_venv() -> None:
    wanted = _wanted()
    if STAMP.is_file() and STAMP.read_text() == wanted and PYTHON.exists():
        return
    STAMP.unlink(missing_ok=True)
    if not _is_ours():
        _make_venv()
    _fill_venv()
    STAMP.write_text(wanted)


def _compiler() -> str | None:
    return os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _try(package: Package, find: Callable[[], str | None]) -> None:
    """Get what single tests need. Where it cannot be had this says so, and the tests that need it fail."""
    try:
        ensure(package, find, unpack=False)
    except SetupError as error:
        say(str(error))


def _prepare_toolchains() -> None:
    """Put node and Go on the search path, also that of the command that follows."""
    for toolchain in (toolchains.NODE, toolchains.GO):
        try:
            folder = toolchains.ensure(toolchain, PYTHON)
        except SetupError as error:
            say(str(error))
        else:
            if folder:
                os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])


def _prepare_tests() -> None:
    _prepare_toolchains()
    _try(SYSTEMD, lambda: shutil.which("systemd-analyze"))
    _try(COMPILER, _compiler)
    _try(OPENSSL, lambda: shutil.which("openssl"))
    # Tests have a time limit; downloads shall not count.
    for module in PUBLISHED:
        failure = f"{module} could not install what the tests need, see above"
        missing = _must(failure, str(PYTHON), "-c", FETCH, module)
        if missing:
            say(missing.strip())


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    """What was asked, and the command that follows `--`."""
    parser = argparse.ArgumentParser(
        prog="scripts/setup", usage="%(prog)s [--for-tests] [-- COMMAND …]", description="Make this checkout ready."
    )
    parser.add_argument("--for-tests", action="store_true", help="also what the tests need besides")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:split]), words[split + 1 :]


def main() -> int:
    """Set up, then become the command, if one was given."""
    arguments, command = _arguments()
    try:
        with _alone():
            found = ensure(softhsm.PACKAGE, softhsm.find)
            _prepare_venv()
            if arguments.for_tests:
                _prepare_tests()
    except SetupError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    if command:
        os.environ.update(found.environment())
        os.execvp(command[0], command)  # noqa: S606 - the caller's own command, by design
    for name, value in found.environment().items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
