"""What the examples in other languages need: npm packages, Go modules and grpcurl, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

from tests.support import npm
from tests.support.needed import program

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "examples" / "clients"
GRPCURL = CHECKOUT / "tests" / "interop" / "grpcurl"


def go_environment() -> dict[str, str]:
    """For Go: no C compiler, and go.mod and go.sum as they are."""
    return os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}


def _cached(name: str, *pins: Path) -> Path:
    """A folder in the user's cache that is another one when any of the files that pin its content changes."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in pins)).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "privyseal" / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
    for _ in range(3):  # Go gives a download one try
        done = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900
        )
        if done.returncode == 0:
            return
    raise RuntimeError(f"{' '.join(map(str, command[:3]))} failed: {(done.stdout + done.stderr)[-2000:]}")


def node_modules() -> Path:
    """The node example's packages, as `npm ci` installs them from its lock file."""
    return npm.install(EXAMPLES / "node") / "node_modules"


def grpcurl() -> Path:
    """grpcurl, built from the module in tests/interop/grpcurl when it is missing; the folder that holds it."""
    go = program("go")
    folder = _cached("grpcurl", GRPCURL / "go.mod", GRPCURL / "go.sum")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "grpcurl").exists():
            building = folder / "grpcurl.new"
            package = "github.com/fullstorydev/grpcurl/cmd/grpcurl"
            _run(go, "build", "-o", building, package, cwd=GRPCURL, env=go_environment())
            building.rename(folder / "grpcurl")
    return folder


def install() -> None:
    """All of it, and the other updaters' packages; and what the Go example is built of, in Go's own cache."""
    node_modules()
    npm.install(CHECKOUT / "tests" / "interop" / "updaters")
    grpcurl()
    packages = (
        "google.golang.org/grpc",
        "google.golang.org/genproto/googleapis/rpc/errdetails",
        "google.golang.org/protobuf/cmd/protoc-gen-go",
        "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
    )
    _run(program("go"), "build", *packages, cwd=EXAMPLES / "go", env=go_environment())
