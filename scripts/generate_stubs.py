"""Make the Python stubs of proto/ under client/ with the pinned compiler; --check says whether they are current."""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

CHECKOUT = Path(__file__).resolve().parent.parent
PROTO = CHECKOUT / "proto"
STUBS = CHECKOUT / "client" / "privyseal" / "v1"
# pyproject.toml pins the same; a newer compiler makes code that demands newer libraries of every user.
PINNED = {"grpcio-tools": "1.80.0", "mypy-protobuf": "5.1.0"}


def _generate(out: Path) -> None:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    options = ["--python_out=", "--grpc_python_out=", "--mypy_out=quiet:", "--mypy_grpc_out=quiet:"]
    # protoc finds its plugins, protoc-gen-mypy among them, on the search path.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    includes = [f"-I{PROTO}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    if protoc.main(["protoc", *includes, *(f"{option}{out}" for option in options), *sources]) != 0:
        raise SystemExit("generate_stubs: protoc failed, see above")


def _generated(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*_pb2*.py*")}


def _differences(fresh: Path) -> list[str]:
    names = sorted(_generated(fresh) | _generated(STUBS))
    _, differing, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
    return sorted(differing + missing)


def main() -> int:
    """Generate, or check; 1 when the check finds a difference, 2 with another compiler than the pinned one."""
    for name, wanted in PINNED.items():
        if version(name) != wanted:
            print(f"generate_stubs: {name} is {version(name)}, not {wanted}; run scripts/setup", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as temporary:
        _generate(Path(temporary))
        fresh = Path(temporary) / "privyseal" / "v1"
        if sys.argv[1:] == ["--check"]:
            differences = _differences(fresh)
            if differences:
                print(
                    f"generate_stubs: not as proto/ says: {', '.join(differences)}; run `make proto`", file=sys.stderr
                )
            return 1 if differences else 0
        for name in _generated(STUBS) - _generated(fresh):
            (STUBS / name).unlink()
        for name in sorted(_generated(fresh)):
            shutil.copyfile(fresh / name, STUBS / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
