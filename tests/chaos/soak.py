"""Mixed load with random faults for a given time: `python -m tests.chaos.soak --minutes N [--seed N]`.

The service is one process, and no fault ends it, so that a leak shows. The last lines report whether memory,
descriptors, sessions and threads stayed flat, with figures.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.callers import Callers
from tests.chaos.judge import judge
from tests.chaos.scenarios import CASES
from tests.chaos.stage import Held, Stage

_ENDING = ("hang", "killed")
"""Words in the names of scenarios that end the process."""
_MEASURES: dict[str, tuple[Callable[[Held], float], float]] = {
    "resident memory, MiB": (lambda held: held.memory_mib, 8.0),
    "descriptors": (lambda held: held.descriptors, 4.0),
    "sessions": (lambda held: held.sessions, 0.0),
    "threads": (lambda held: held.threads, 2.0),
}
"""What is measured, and which growth still counts as flat."""


def main(arguments: list[str]) -> int:
    """Run the soak; return 0 when all stayed flat and every scenario recovered without a fault."""
    parser = argparse.ArgumentParser(description="Load the service and break it for a long time.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat a run")
    options = parser.parse_args(arguments)
    print(f"soak: {options.minutes:g} minutes, seed {options.seed}", flush=True)
    rng = random.Random(options.seed)
    cases = [case for name, case in CASES.items() if not any(word in name for word in _ENDING)]
    samples: list[Held] = []
    bad = 0
    with (
        tempfile.TemporaryDirectory(prefix="privyseal-soak-") as scratch,
        Stage(Path(scratch), workers=0) as stage,
        Callers(stage.client, stage.public_key, number=4) as callers,
    ):
        end_s = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end_s:
            verdict = judge(rng.choice(cases), stage, callers, rng)
            samples.append(verdict.after)
            if verdict.faults:
                bad += 1
                print(verdict, flush=True)
            elif len(samples) % 10 == 0:
                print(f"soak: {len(samples)} faults, {callers.signed} answers, now {verdict.after}", flush=True)
        signed, codes = callers.signed, list(stage.program.codes)
    flat = report(samples)
    print(
        f"soak: {len(samples)} faults, {signed} answers, {bad} failed, "
        f"{len(codes)} ends of the process, seed {options.seed}: {'flat' if flat else 'NOT FLAT'}"
    )
    return 0 if flat and not bad and not codes else 1


def report(samples: Sequence[Held]) -> bool:
    """Print a line for each measure; return whether all are flat. The first quarter is warm-up and does not count."""
    if len(samples) < 8:
        print(f"soak: {len(samples)} faults are too few to judge growth; use more minutes")
        return False
    quarter = len(samples) // 4
    all_flat = True
    for name, (measure, more) in _MEASURES.items():
        first = statistics.median(measure(each) for each in samples[quarter : 2 * quarter])
        last = statistics.median(measure(each) for each in samples[-quarter:])
        highest = max(measure(each) for each in samples)
        flat = last <= first + more
        all_flat &= flat
        print(
            f"soak: {name}: {first:.0f} after a quarter, {last:.0f} at the end, {highest:.0f} at most:"
            f" {'flat' if flat else 'GROWN'}"
        )
    return all_flat


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
