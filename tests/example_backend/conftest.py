"""The example backend as its users have it: built as a wheel, installed, and found by its entry point."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.stores import StoreUnderTest
from tests.example_backend.store import labagent
from tests.support.example_backend import EXAMPLE

pytest.register_assert_rewrite(
    *(f"tests.conformance.{name}" for name in ("cases", "backend_cases", "adapters", "samples"))
)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was installed; of no index is anything asked."""
    folder = tmp_path_factory.mktemp("example")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--isolated"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("privyseal_labagent-*.whl")
    target = folder / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture(scope="module")
def importable(installed: Path) -> Iterator[None]:
    """The package is installed for this process, as long as one test module runs."""
    sys.path.append(str(installed))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(installed))
        for name in [name for name in sys.modules if name.split(".")[0] == "privyseal_labagent"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def store(installed: Path, importable: None) -> Iterator[StoreUnderTest]:
    # Not pytest's own folder: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="lab-") as folder, labagent(Path(folder), installed) as running:
        yield running
