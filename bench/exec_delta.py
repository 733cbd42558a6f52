"""How long a delta upload takes under `privyseal exec`, in multiples of the same upload with a key file.

Both upload the same folder with the published Capgo CLI to the tests' stand-in of Capgo's API on loopback, in turn. The
service is the real program, with mutual TLS and a key in SoftHSM. It needs node, npm and softhsm2. The medians and
their ratio come last: once with the sending left out, and once for all of it.

    .venv/bin/python bench/exec_delta.py [--files 2000] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.interop.capgo_api.server import API_KEY, settings_for  # noqa: E402
from tests.support.capgo_cli import install, make_app  # noqa: E402
from tests.support.programs import serving_vectors  # noqa: E402

VECTOR = ROOT / "tests" / "vectors" / "capgo-v3"
API = "from tests.interop.capgo_api.server import main; main()"
BIN = Path(sys.executable).parent


@contextmanager
def stand_in() -> Iterator[str]:
    """The stand-in of Capgo's API in a process of its own; its address."""
    process = subprocess.Popen([sys.executable, "-c", API], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def release(folder: Path, api: str, files: int) -> Path:
    """An app of that many files of 1 to 4 KiB; the CLI's script."""
    script = make_app(folder, (VECTOR / "public.pem").read_text(), "capgo-v3").script
    config = json.loads((folder / "capacitor.config.json").read_text())
    config["plugins"]["CapacitorUpdater"].update(settings_for(api))
    (folder / "capacitor.config.json").write_text(json.dumps(config))
    chance = random.Random(0)
    (folder / "dist").mkdir()
    (folder / "dist" / "index.html").write_text("<!doctype html>")
    (folder / "dist" / "main.js").write_text("CapacitorUpdater.notifyAppReady()")
    for index in range(files - 2):
        path = folder / "dist" / f"part-{index % 50}" / f"{index}.js"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(1024, 4096)))
    return script


def upload(words: list[str], folder: Path, env: Mapping[str, str]) -> float:
    """Seconds of one upload, the start of the programs included."""
    begin_s = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - begin_s
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return took_s


def compare(name: str, runs: int, local: Callable[[], float], remote: Callable[[], float]) -> str:
    """Run both in turn, print each run, and return the sentence with the medians and their ratio."""
    pairs = []
    for run in range(runs):
        pairs.append((local(), remote()))
        print(f"{name}, run {run + 1}: key file {pairs[-1][0]:.2f} s, exec {pairs[-1][1]:.2f} s", flush=True)
    local_s, remote_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    return f"{name}: key file {local_s:.2f} s, exec {remote_s:.2f} s, ratio {remote_s / local_s:.2f}"


def main() -> None:
    """Make all that is needed in a temporary folder, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    install()
    with tempfile.TemporaryDirectory(prefix="privyseal-bench-") as name:
        folder = Path(name)
        app = folder / "app"
        for each in (folder / "service", app):
            each.mkdir()
        with stand_in() as api, serving_vectors(folder / "service") as (service, _):
            script = release(app, api, options.files)
            quiet = {"CI": "1", "CAPGO_DISABLE_TELEMETRY": "1", "HOME": name}
            remote_env = {**service.environment, **quiet, "PRIVYSEAL_KEY": "capgo-v3"}
            cli = ["node", str(script), "bundle", "upload", "--apikey", API_KEY, "--delta"]

            def local(*more: str) -> float:
                return upload([*cli, *more, "--key-v2", str(VECTOR / "private.pem")], app, quiet)

            def remote(*more: str) -> float:
                return upload([str(BIN / "privyseal"), "exec", "--", *cli, *more], app, remote_env)

            title = f"delta upload of {options.files} files"
            dry = "--dry-upload"  # all but the sending
            results = [
                compare(f"{title}, sending left out", options.runs, lambda: local(dry), lambda: remote(dry)),
                compare(title, options.runs, local, remote),
            ]
    print(*results, sep="\n")


if __name__ == "__main__":
    main()
