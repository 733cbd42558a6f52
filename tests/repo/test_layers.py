"""The order of the rooms: every import of service, backends and client obeys the contracts in pyproject.toml."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT, name

ROOTS = ("client/privyseal", "backends/privyseal_backends", "service/privyseal_service")
LINTER = Path(sys.executable).with_name("lint-imports")
# What the client's root has for both sides: the service keeps the log with what everybody checks it with.
SHARED = ("privyseal.v1", "privyseal.transparency")


def modules(root: str) -> list[Path]:
    found = [file for file in (CHECKOUT / root).rglob("*.py") if not file.name.endswith(("_pb2.py", "_pb2_grpc.py"))]
    assert found
    return found


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join(str((checkout / root).parent) for root in ROOTS)
    return subprocess.run(
        [LINTER, "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_every_import_obeys_the_order_of_the_rooms():
    linted = lint_imports(CHECKOUT)

    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        pytest.param(
            "service/privyseal_service/system/sockets.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import privyseal_service.keys.keyring",
            "Each room of the service imports only the rooms below it",
            id="back up, for types only",
        ),
        pytest.param(
            "service/privyseal_service/domain/operations.py",
            "import asyncio",
            "The domain does no I/O and imports no gRPC",
            id="I/O in the domain",
        ),
        pytest.param(
            "backends/privyseal_backends/interface.py",
            "def f():\n    from privyseal_service.cli import main",
            "The service imports backends and client",
            id="a backend that knows the service, inside a function",
        ),
        pytest.param(
            "client/privyseal/errors.py",
            "import privyseal_backends.interface",
            "The service imports backends and client",
            id="a client that knows a backend",
        ),
        pytest.param(
            "service/privyseal_service/domain/patterns.py",
            "import privyseal_service.domain.grants",
            "No circle of imports",
            id="a circle inside a room",
        ),
    ],
)
def test_an_import_that_breaks_the_order_is_found(tmp_path, module, line, contract):
    for root in ROOTS:
        shutil.copytree(CHECKOUT / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")

    linted = lint_imports(tmp_path)

    assert linted.returncode == 1
    broken = linted.stdout.partition("Broken contracts")[2]
    assert contract in " ".join(broken.split())


def test_the_service_takes_stubs_transparency_and_the_version_from_the_client_and_no_more():
    wrong = {
        name(file): sorted(more)
        for file in modules("service/privyseal_service")
        if (more := {i for i in imports(file) if i.split(".")[0] == "privyseal" and not may_be_shared(i)})
    }

    assert wrong == {}


def imports(file: Path) -> set[str]:
    """The full name of every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}: write the import's full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def may_be_shared(imported: str) -> bool:
    return imported == "privyseal.__version__" or any(f"{imported}.".startswith(f"{name}.") for name in SHARED)


@pytest.mark.parametrize("imported", ["privyseal", "privyseal.errors", "privyseal.v1beta", "privyseal.transparency_"])
def test_nothing_else_of_the_client_is_shared(imported):
    assert not may_be_shared(imported)


@pytest.mark.parametrize("root", ROOTS)
def test_every_module_has_a_docstring_and_at_most_400_lines(root):
    silent = [name(file) for file in modules(root) if not ast.get_docstring(ast.parse(file.read_text() or "''"))]
    long = {name(file): lines for file in modules(root) if (lines := len(file.read_text().splitlines())) > 400}

    assert (silent, long) == ([], {})
