"""Compare the counters that workers share with the plain way to have them: the `limits` library's protocol on SQLite.

    python bench/counters.py                    1 and 4 processes, 20,000 counts each
    python bench/counters.py --counts 50000

Each process counts hits of a sliding window, as a grant's rate does, over 50 callers. What is printed for each: counts
a second of all processes together, CPU time for a count, the longest count, and whether the totals are right (no hit
lost, none beyond the limit).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from privyseal_service.limits.shared_counters import FileCounters

CALLERS = 50
WINDOW_S = 3600
LIMIT = 10**9


class SqliteCounters:
    """The sliding window of a `limits` storage on the standard library's SQLite: one table, a write-ahead log, and a
    transaction for each count.

    `synchronous` is off: counts in a mapped file survive a restart of the service and no loss of power either.
    """

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, timeout=5.0, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS counts (name TEXT, window INTEGER, count INTEGER,"
            " PRIMARY KEY (name, window)) WITHOUT ROWID"
        )

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            previous, previous_left_s, current, _ = self.get_sliding_window(key, expiry)
            fits = floor(previous * previous_left_s / expiry + current) + amount <= limit
            if fits:
                self._db.execute(
                    "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                    (key, time.time() // expiry, amount),
                )
        finally:
            self._db.execute("COMMIT")
        return fits

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now_s = time.time()
        window, left_s = now_s // expiry, expiry - now_s % expiry
        rows = self._db.execute("SELECT window, count FROM counts WHERE name = ? AND window >= ?", (key, window - 1))
        found = dict(rows.fetchall())
        return found.get(window - 1, 0), left_s, found.get(window, 0), left_s + expiry


STORAGES: dict[str, Callable[[Path], FileCounters | SqliteCounters]] = {
    "file that is mapped": lambda folder: FileCounters(folder / "limits", patient=True),
    "SQLite": lambda folder: SqliteCounters(folder / "limits.db"),
}


@dataclass(frozen=True)
class Share:
    """What one process measured."""

    wall_s: float
    cpu_s: float
    longest_s: float


def count(name: str, folder: Path, counts: int, barrier: Barrier, results: multiprocessing.Queue[Share]) -> None:
    storage = STORAGES[name](folder)
    barrier.wait()
    cpu_s, begun_s, longest_s = _cpu_s(), time.perf_counter(), 0.0
    before_s = begun_s
    for number in range(counts):
        if not storage.acquire_sliding_window_entry(f"caller-{number % CALLERS}", LIMIT, WINDOW_S):
            raise SystemExit("a count within the limit was refused")
        now_s = time.perf_counter()
        longest_s, before_s = max(longest_s, now_s - before_s), now_s
    results.put(Share(before_s - begun_s, _cpu_s() - cpu_s, longest_s))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(name: str, processes: int, counts: int) -> str:
    """One line of the table."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        barrier, results = context.Barrier(processes), context.Queue()
        STORAGES[name](folder)  # made before they begin
        workers = [
            context.Process(target=count, args=(name, folder, counts, barrier, results)) for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        shares = [results.get(timeout=300) for _ in workers]
        for worker in workers:
            worker.join()
        storage = STORAGES[name](folder)
        total = sum(
            storage.get_sliding_window(f"caller-{caller}", WINDOW_S)[index]
            for caller in range(CALLERS)
            for index in (0, 2)  # where an hour ended meanwhile
        )
    done = processes * counts
    rate = done / max(share.wall_s for share in shares)
    cpu_us = sum(share.cpu_s for share in shares) / done * 1e6
    longest_ms = max(share.longest_s for share in shares) * 1e3
    right = "right" if total == done else f"WRONG: {total} of {done}"
    return f"{name:20} {processes:9} {rate:12,.0f} {cpu_us:14.1f} {longest_ms:12.1f}  {right}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare shared counters.")
    parser.add_argument("--counts", type=int, default=20_000, help="counts of each process")
    parser.add_argument("--processes", default="1,4", help="how many processes, separated by commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often, in turn")
    arguments = parser.parse_args()
    print(f"{'counters':20} {'processes':>9} {'counts/s':>12} {'CPU us/count':>14} {'longest ms':>12}  totals")
    for processes in map(int, arguments.processes.split(",")):
        for _ in range(arguments.rounds):
            for name in STORAGES:
                print(measure(name, processes, arguments.counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
