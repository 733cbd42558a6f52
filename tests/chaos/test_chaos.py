"""A short part of the chaos: a few causes of each kind, and a wrong PIN. scripts/chaos.py runs all scenarios."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.callers import Callers
from tests.chaos.judge import judge
from tests.chaos.scenarios import CASES, WORKER_CASES
from tests.chaos.stage import Stage
from tests.support.processes import until
from tests.support.shim import Ckr

QUICK = "hang_after_s = 1.0"
ONE_PROCESS = (
    "one C_Sign answers USER_NOT_LOGGED_IN",
    "every C_Sign answers DEVICE_REMOVED",
    "the tokens folder is moved away",
)
LOST_PROCESS = ("the clock jumps", "one c sign hangs for ever")
WORKERS = ("the tokens folder is moved away", "one c sign hangs for ever", "a worker is killed")


@pytest.mark.parametrize(("workers", "names"), [(0, ONE_PROCESS), (0, LOST_PROCESS), (2, WORKERS)])
def test_the_service_recovers_without_help(tmp_path: Path, workers: int, names: tuple[str, ...]) -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    rng = random.Random(seed)
    known = {**CASES, **WORKER_CASES}
    with Stage(tmp_path, workers=workers, settings=QUICK) as stage, Callers(stage.client, stage.public_key) as callers:
        verdicts = [judge(known[name], stage, callers, rng) for name in names]
    for verdict in verdicts:
        print(verdict)
    assert [verdict.name for verdict in verdicts if verdict.faults] == []
    if names is LOST_PROCESS:
        assert 75 in stage.program.codes
    assert "Traceback" not in stage.program.log


def test_a_wrong_pin_is_tried_once_by_all_workers_together(tmp_path: Path) -> None:
    """Both lose their logins together, and the PIN was changed meanwhile; then workers are killed, twice."""
    with Stage(tmp_path, workers=2) as stage, stage.client() as client:
        shim = stage.shim
        until(lambda: sum(shim.sessions.get(pid, 0) > 0 for pid in stage.program.workers) == 2, what="both workers")
        logins = shim.calls("C_Login")
        shim.fail("C_Login", Ckr.PIN_INCORRECT)
        shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN)
        with Callers(stage.client, stage.public_key, number=6) as callers:
            begun_s = time.monotonic()
            until(lambda: "FAILED_PRECONDITION KEY_BLOCKED" in callers.since(begun_s), what="a blocked key")
            time.sleep(1)
            for _ in range(2):
                before = set(stage.program.workers)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                until(lambda old=before: len(set(stage.program.workers) - old) == 2, what="new workers")
                killed_s = time.monotonic()
                until(lambda s=killed_s: "FAILED_PRECONDITION KEY_BLOCKED" in callers.since(s), what="a blocked key")
            assert callers.wrong == []
        assert client.get_key("demo").state.name == "BLOCKED"
        assert shim.calls("C_Login") == logins + 1
