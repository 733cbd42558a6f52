"""What `privyseal bundle seal --delta` takes: time, peak memory and operations; and again with a few changes.

    python bench/delta.py                                  2,000 small files and one of 20 MiB
    python bench/delta.py --files 200 --large 500          another app; sizes in MiB

A first release fills a signature cache, a second one has three changed files. The service signs in software, on
loopback, in this process. Text compresses slowly, as it does for the Capgo CLI: that is most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.fakes.signing_server import signing_server  # noqa: E402 - found through the line above

VECTOR = ROOT / "tests" / "vectors" / "capgo-v3"
PROGRAM = Path(sys.executable).with_name("privyseal")
PIECE_BYTES = 1 << 20

# A process begins with its parent's peak memory as its own: a small one stands between, and takes the measures.
MEASURE = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True)
wall = time.perf_counter() - begun
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
out, err = done.stdout.decode(), done.stderr.decode(errors="replace")
found = {"wall_s": wall, "cpu_s": cpu, "peak": used.ru_maxrss, "code": done.returncode, "out": out, "err": err}
print(json.dumps(found))
"""
PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def make_app(folder: Path, files: int, large_mib: int) -> None:
    """Small files of text and of bytes that do not shrink, and a large one of both."""
    chance = random.Random(0)
    words = [chance.randbytes(chance.randrange(3, 10)).hex() for _ in range(2000)]
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    for number in range(files - 1):
        size = chance.randrange(1000, 20000)
        text = " ".join(chance.choices(words, k=size // 12)).encode()
        (folder / "assets" / f"{number}.js").write_bytes(text if number % 3 else chance.randbytes(size))
    with (folder / "assets" / "large.bin").open("wb") as file:
        for number in range(large_mib):
            text = " ".join(chance.choices(words, k=PIECE_BYTES // 8)).encode()[:PIECE_BYTES]
            file.write(text if number % 10 == 0 else chance.randbytes(PIECE_BYTES))


def seal(folder: Path, version: str, environ: dict[str, str]) -> dict[str, object]:
    words = [PROGRAM, "bundle", "seal", "app", "--version", version, "--output", "out", "--delta", "--json"]
    words += ["--base-url", "https://updates.example.com", "--format", "capgo-v3", "--signature-cache", "cache"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, words)], cwd=folder, env=environ, capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    if found["code"]:
        raise SystemExit(f"privyseal ended with {found['code']}: {found['err']}")
    return {**found, "summary": json.loads(found["out"])}


def row(name: str, found: dict[str, object]) -> str:
    summary = found["summary"]
    peak_mib = found["peak"] * PEAK_UNIT_BYTES / 2**20
    return (
        f"| {name} | {found['wall_s']:.1f} s | {found['cpu_s']:.1f} s | {peak_mib:.0f} MiB "
        f"| {summary['operations']} | {summary['cached']} | {summary['delta']['bytes'] / 1e6:.1f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000, help="how many small files")
    parser.add_argument("--large", type=int, default=20, help="the large file's size in MiB")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="privyseal-bench-") as name,
        signing_server((VECTOR / "private.pem").read_bytes()) as server,
    ):
        folder = Path(name)
        make_app(folder / "app", options.files, options.large)
        environ = {**os.environ, "PRIVYSEAL_SERVER": f"http://{server.address}"}
        first = seal(folder, "1.0.0", environ)
        for number in range(3):
            (folder / "app" / "assets" / f"{number}.js").write_text(f"changed {number}")
        second = seal(folder, "1.0.1", environ)
    plain = first["summary"]["plain_bytes"] / 1e6
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {options.files} small files and one of {options.large} MiB, {plain:.1f} MB\n")
    print("| release | wall | CPU | peak memory | operations | from the cache | delta |\n|---|---|---|---|---|---|---|")
    print(row("first", first))
    print(row("three files changed", second))


if __name__ == "__main__":
    main()
