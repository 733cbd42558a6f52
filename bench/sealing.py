"""Compare `privyseal bundle encrypt` with the published Capgo CLI on the same files: wall time, CPU time, peak memory.

    python bench/sealing.py                          1 MiB and 100 MiB, five rounds, against a service of its own
    python bench/sealing.py --sizes 1,100,1024       with 1 GiB
    python bench/sealing.py --capgo node_modules     another installation of @capgo/cli (or CAPGO_NODE_MODULES)

The two run in turn. Ours does mutual TLS to a service on loopback that signs in software; with PRIVYSEAL_SERVER set, to
that one, as the environment says. Capgo's CLI has its key in a file, and is given the checksum that ours computes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402 - the tests' support is found through the line above
from tests.fakes.signing_server import signing_server  # noqa: E402
from tests.support import capgo_cli  # noqa: E402
from tests.support.pki import CA  # noqa: E402

VECTOR = ROOT / "tests" / "vectors" / "capgo-v3"
PROGRAM = Path(sys.executable).with_name("privyseal")
MEMORY_LIMIT_MIB = 64
WALL_LIMIT = 0.5

# A process begins with its parent's peak memory as its own: a small one stands between, and takes the time.
MEASURE = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
wall = time.perf_counter() - begun
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
stderr = done.stderr.decode(errors="replace")
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak": used.ru_maxrss, "code": done.returncode, "stderr": stderr}))
"""
PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """One run of a program."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def measure(arguments: Sequence[str], folder: Path, environ: dict[str, str]) -> Run:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    if found["code"]:
        raise SystemExit(f"{' '.join(arguments[:4])} … ended with {found['code']}: {found['stderr']}")
    return Run(found["wall_s"], found["cpu_s"], found["peak"] * PEAK_UNIT_BYTES / (1 << 20))


def make_zip(path: Path, size_mib: int) -> str:
    """Write a zip of random bytes; its SHA-256."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("assets/data.bin", "w", force_zip64=True) as file:
        for _ in range(size_mib):
            file.write(os.urandom(1 << 20))
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def service(folder: Path) -> Iterator[dict[str, str]]:
    """The environment that leads ours to a service."""
    if os.environ.get("PRIVYSEAL_SERVER"):
        yield dict(os.environ)
        return
    authority = CA()
    served = authority.server()
    cert, cert_key = authority.issue(dns=["build.example"]).write(folder, "client")
    credentials = grpc.ssl_server_credentials(
        [(served.key_pem, served.chain_pem)], authority.pem, require_client_auth=True
    )
    with signing_server((VECTOR / "private.pem").read_bytes(), credentials=credentials) as running:
        yield {
            **os.environ,
            "PRIVYSEAL_SERVER": running.address,
            "PRIVYSEAL_CA": str(authority.write(folder)),
            "PRIVYSEAL_CERT": str(cert),
            "PRIVYSEAL_CERT_KEY": str(cert_key),
        }


def capgo_script(node_modules: Path | None) -> Path:
    return capgo_cli.install() if node_modules is None else node_modules / "@capgo" / "cli" / "dist" / "index.js"


@dataclass(frozen=True)
class App:
    """An app's folder as Capgo's CLI wants it, and the CLI's script."""

    folder: Path
    script: Path


def make_app(folder: Path, script: Path) -> App:
    version = capgo_cli.UPDATER_VERSIONS["capgo-v3"]
    plugin = folder / "node_modules" / "@capgo" / "capacitor-updater" / "package.json"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(json.dumps({"name": "@capgo/capacitor-updater", "version": version}))
    (folder / "package.json").write_text(json.dumps({"dependencies": {"@capgo/capacitor-updater": version}}))
    updater = {"publicKey": (VECTOR / "public.pem").read_text()}
    settings = {"appId": "com.example.app", "webDir": "dist", "plugins": {"CapacitorUpdater": updater}}
    (folder / "capacitor.config.json").write_text(json.dumps(settings))
    return App(folder, script)


def compare(size_mib: int, rounds: int, app: App, environ: dict[str, str]) -> dict[str, list[Run]]:
    bundle = app.folder / f"bundle-{size_mib}.zip"
    checksum = make_zip(bundle, size_mib)
    ours = [str(PROGRAM), "bundle", "encrypt", bundle.name, "--format", "capgo-v3", "--json"]
    theirs = ["node", str(app.script), "bundle", "encrypt", bundle.name, checksum, "--json"]
    theirs += ["--key", str(VECTOR / "private.pem")]
    quiet = {**os.environ, "CI": "1", "CAPGO_DISABLE_TELEMETRY": "1"}
    found: dict[str, list[Run]] = {"privyseal": [], "capgo": []}
    for number in range(rounds + 1):
        for name, arguments, variables in (("privyseal", ours, environ), ("capgo", theirs, quiet)):
            run = measure(arguments, app.folder, variables)
            if number:  # the first round warms the caches
                found[name].append(run)
            bundle.with_name(f"{bundle.name}_encrypted.zip").unlink()
    bundle.unlink()
    return found


def middle(runs: list[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(value(run) for run in runs)


def row(size_mib: int, found: dict[str, list[Run]]) -> dict[str, float]:
    ours, theirs = found["privyseal"], found["capgo"]
    wall, their_wall = middle(ours, lambda r: r.wall_s), middle(theirs, lambda r: r.wall_s)
    return {
        "size_mib": size_mib,
        "wall_s": wall,
        "capgo_wall_s": their_wall,
        "wall_ratio": wall / their_wall,
        "cpu_s": middle(ours, lambda r: r.cpu_s),
        "capgo_cpu_s": middle(theirs, lambda r: r.cpu_s),
        "peak_mib": max(run.peak_mib for run in ours),
        "capgo_peak_mib": max(run.peak_mib for run in theirs),
    }


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        "| zip | wall, ours / Capgo's | ratio | CPU, ours / Capgo's | peak memory, ours / Capgo's |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['size_mib']:.0f} MiB | {r['wall_s']:.2f} / {r['capgo_wall_s']:.2f} s | {r['wall_ratio']:.2f} "
        f"| {r['cpu_s']:.2f} / {r['capgo_cpu_s']:.2f} s | {r['peak_mib']:.0f} / {r['capgo_peak_mib']:.0f} MiB |"
        for r in rows
    ]
    return "\n".join(lines)


def verdict(rows: list[dict[str, float]]) -> list[str]:
    """What was promised and is not so in these rows."""
    misses = [
        f"{r['size_mib']:.0f} MiB: {r['peak_mib']:.0f} MiB of memory" for r in rows if r["peak_mib"] > MEMORY_LIMIT_MIB
    ]
    return misses + [
        f"{r['size_mib']:.0f} MiB: {r['wall_ratio']:.2f} of the wall time" for r in rows if r["wall_ratio"] > WALL_LIMIT
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1,100", help="sizes in MiB, with commas between them")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each")
    parser.add_argument(
        "--capgo", type=Path, default=os.environ.get("CAPGO_NODE_MODULES"), help="a node_modules folder with @capgo/cli"
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()

    script = capgo_script(Path(options.capgo).resolve() if options.capgo else None)
    with tempfile.TemporaryDirectory(prefix="privyseal-bench-") as name, service(Path(name)) as environ:
        app = make_app(Path(name) / "app", script)
        rows = [row(size, compare(size, options.rounds, app, environ)) for size in map(int, options.sizes.split(","))]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, medians of {options.rounds} rounds, the highest peak\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    misses = verdict(rows)
    for miss in misses:
        print(f"missed: {miss}", file=sys.stderr)
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
