"""All scenarios, one after another: `python -m tests.chaos.run [--seed N] [-k WORDS]`. The last line is a summary."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.callers import Callers
from tests.chaos.cloud import cloud_verdicts
from tests.chaos.judge import Verdict, judge
from tests.chaos.scenarios import CASES, WORKER_CASES, Case
from tests.chaos.stage import Stage


def verdicts(workers: int, cases: list[Case], rng: random.Random, folder: Path) -> Iterator[Verdict]:
    """Run every case on one service, which is not restarted in between."""
    with (
        Stage(folder / f"workers-{workers}", workers=workers) as stage,
        Callers(stage.client, stage.public_key) as callers,
    ):
        for case in cases:
            yield judge(case, stage, callers, rng)


def main(arguments: list[str]) -> int:
    """Run the scenarios; return 0 when each recovered in time and without a fault."""
    parser = argparse.ArgumentParser(description="Break the service in every known way, and check that it recovers.")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat a run")
    parser.add_argument("-k", dest="words", default="", help="only scenarios whose name has these words")
    parser.add_argument("--folder", type=Path, help="keep what the services write, logs among it, in this folder")
    parser.add_argument("--skip-clouds", action="store_true", help="leave the cloud key stores out")
    options = parser.parse_args(arguments)
    print(f"chaos: seed {options.seed}", flush=True)
    rng = random.Random(options.seed)
    bad = run = 0
    with tempfile.TemporaryDirectory(prefix="privyseal-chaos-") as scratch:
        folder = options.folder or Path(scratch)
        for verdict in _all(options, rng, folder):
            run += 1
            bad += bool(verdict.faults) or not verdict.in_time
            print(verdict, flush=True)
    print(f"chaos: {run} scenarios, {bad} failed, seed {options.seed}", flush=True)
    return 1 if bad or not run else 0


def _all(options: argparse.Namespace, rng: random.Random, folder: Path) -> Iterator[Verdict]:
    for workers, known in ((0, CASES), (2, {**CASES, **WORKER_CASES})):
        cases = [case for name, case in known.items() if options.words in name]
        rng.shuffle(cases)
        print(f"chaos: {len(cases)} scenarios with workers = {workers}", flush=True)
        if cases:
            yield from verdicts(workers, cases, rng, folder)
    if not options.skip_clouds:
        yield from cloud_verdicts(options.words, rng, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
