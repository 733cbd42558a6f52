"""Who may import whom: the service imports backends, stubs and transparency, client and backends nothing of ours."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT, name

OURS = {"privyseal", "privyseal_service", "privyseal_backends"}
ROOTS = {
    "client/privyseal": {"privyseal"},
    "backends/privyseal_backends": {"privyseal_backends"},
    "service/privyseal_service": {"privyseal_service", "privyseal_backends", "privyseal"},
}
# What the client's root has for both sides: the service keeps the log with what everybody checks it with.
SHARED = ("privyseal.v1", "privyseal.transparency")
# gRPC and the operations of a key store have no place where only the mathematics and the rules are.
DOMAIN = sorted((CHECKOUT / "service/privyseal_service/domain").glob("*.py"))


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


def modules(root: str) -> list[Path]:
    found = [file for file in (CHECKOUT / root).rglob("*.py") if not file.name.endswith(("_pb2.py", "_pb2_grpc.py"))]
    assert found
    return found


@pytest.mark.parametrize("root", ROOTS)
def test_arrows_point_one_way(root):
    wrong = {
        name(file): sorted(crossing)
        for file in modules(root)
        if (crossing := {i for i in imports(file) if i.split(".")[0] in OURS - ROOTS[root]})
    }

    assert wrong == {}


def test_the_service_takes_stubs_transparency_and_the_version_from_the_client_and_no_more():
    wrong = {
        name(file): sorted(more)
        for file in modules("service/privyseal_service")
        if (more := {i for i in imports(file) if i.split(".")[0] == "privyseal" and not may_be_shared(i)})
    }

    assert wrong == {}


def may_be_shared(imported: str) -> bool:
    return imported == "privyseal.__version__" or any(f"{imported}.".startswith(f"{name}.") for name in SHARED)


@pytest.mark.parametrize("imported", ["privyseal", "privyseal.errors", "privyseal.v1beta", "privyseal.transparency_"])
def test_nothing_else_of_the_client_is_shared(imported):
    assert not may_be_shared(imported)


def test_transparency_is_pure():
    found = {i for file in modules("client/privyseal/transparency") for i in imports(file)}

    outside = {i for i in found if i.split(".")[0] not in {*sys.stdlib_module_names, "cryptography"}}
    assert {i for i in outside if not i.startswith("privyseal.transparency.")} == set()
    assert {i.split(".")[0] for i in found} & {
        "os",
        "socket",
        "ssl",
        "http",
        "pathlib",
        "threading",
        "asyncio",
    } == set()


@pytest.mark.parametrize("module", DOMAIN, ids=lambda file: file.stem)
def test_the_domain_knows_no_grpc(module):
    found = imports(module)

    assert {i for i in found if i.split(".")[0] in {"grpc", "grpc_status", "google", "asyncio", "socket"}} == set()


def test_every_module_says_what_it_is_for():
    silent = [
        name(file)
        for root in ROOTS
        for file in modules(root)
        if file.read_text().strip() and not ast.get_docstring(ast.parse(file.read_text()))
    ]

    assert silent == []
