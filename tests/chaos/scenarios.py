"""Faults, one function each: break something, wait, repair it. `judge.py` judges the results."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.stage import Stage
from tests.support.processes import lives, until
from tests.support.shim import Ckr

Scenario = Callable[[Stage, random.Random], contextlib.AbstractContextManager[None]]
"""A context manager: the cause begins when it is entered, and has ended when it is left."""


@dataclass(frozen=True)
class Case:
    """A scenario and its name. `bound_s` is how soon after the end of the cause the service must have recovered without
    help; `hurts` is whether callers may see errors."""

    name: str
    scenario: Scenario
    bound_s: float = 2.0
    hurts: bool = True


CASES: dict[str, Case] = {}
"""The scenarios of a token behind the shim, for one process and for workers."""
WORKER_CASES: dict[str, Case] = {}
"""The scenarios that need workers."""


def _case(
    cases: dict[str, Case] = CASES, *, name: str = "", bound_s: float = 2.0, hurts: bool = True
) -> Callable[[Callable[[Stage, random.Random], Iterator[None]]], Scenario]:
    def add(function: Callable[[Stage, random.Random], Iterator[None]]) -> Scenario:
        title = name or function.__name__.replace("_", " ")
        made = contextlib.contextmanager(function)
        cases[title] = Case(title, made, bound_s, hurts)
        return made

    return add


def _pause(rng: random.Random, low_s: float = 0.5, high_s: float = 2.5) -> None:
    time.sleep(rng.uniform(low_s, high_s))


def _c_sign_answers(code: int, *, once: int = 0) -> Callable[[Stage, random.Random], Iterator[None]]:
    """Return a scenario in which every C_Sign answers with this code; with `once`, only so many."""

    def fail(stage: Stage, rng: random.Random) -> Iterator[None]:
        stage.shim.fail("C_Sign", code, times=once or -1, lie=rng.random() < 0.5)
        yield
        if once:
            time.sleep(0.5)
        else:
            _pause(rng)
        stage.shim.clear()

    return fail


for _code in (
    Ckr.SESSION_HANDLE_INVALID,
    Ckr.SESSION_CLOSED,
    Ckr.OBJECT_HANDLE_INVALID,
    Ckr.KEY_HANDLE_INVALID,
    Ckr.OPERATION_ACTIVE,
    Ckr.USER_NOT_LOGGED_IN,
    Ckr.DEVICE_ERROR,
    Ckr.DEVICE_REMOVED,
    Ckr.TOKEN_NOT_PRESENT,
    Ckr.SLOT_ID_INVALID,
    Ckr.CRYPTOKI_NOT_INITIALIZED,
    Ckr.GENERAL_ERROR,
    Ckr.FUNCTION_FAILED,
    Ckr.SESSION_COUNT,
    Ckr.HOST_MEMORY,
    Ckr.DEVICE_MEMORY,
    Ckr.DATA_LEN_RANGE,
    Ckr.KEY_FUNCTION_NOT_PERMITTED,
):
    _case(name=f"every C_Sign answers {_code.name}")(_c_sign_answers(_code))

for _code in (Ckr.SESSION_HANDLE_INVALID, Ckr.USER_NOT_LOGGED_IN, Ckr.GENERAL_ERROR, Ckr.FUNCTION_FAILED):
    _case(name=f"one C_Sign answers {_code.name}", hurts=False)(_c_sign_answers(_code, once=1))
_case(name="one C_Sign answers DEVICE_REMOVED")(_c_sign_answers(Ckr.DEVICE_REMOVED, once=1))


@_case()
def the_token_answers_nothing_but_errors(stage: Stage, rng: random.Random) -> Iterator[None]:
    """As a network HSM that is down: no process can open anything either."""
    for function in ("C_Sign", "C_SignInit", "C_OpenSession", "C_GetTokenInfo", "C_Login", "C_FindObjectsInit"):
        stage.shim.fail(function, Ckr.DEVICE_ERROR)
    yield
    _pause(rng, 2, 5)
    stage.shim.clear()


@_case()
def the_tokens_folder_is_moved_away(stage: Stage, rng: random.Random) -> Iterator[None]:
    folder = stage.token.tokens_folder
    away = folder.with_name("away")
    shutil.move(folder, away)
    yield
    _pause(rng, 1, 4)
    shutil.move(away, folder)


@_case(hurts=False)
def every_call_into_the_token_is_slow(stage: Stage, rng: random.Random) -> Iterator[None]:
    stage.shim.delay("C_Sign", rng.uniform(0.02, 0.1))
    yield
    _pause(rng)
    stage.shim.clear()


@_case(bound_s=10.0)
def every_c_sign_hangs(stage: Stage, rng: random.Random) -> Iterator[None]:
    stage.shim.hang("C_Sign")
    yield
    _pause(rng, 6, 9)
    stage.shim.clear()


@_case(bound_s=10.0)
def one_c_sign_hangs_for_ever(stage: Stage, rng: random.Random) -> Iterator[None]:
    """The cause ends immediately, but the call never returns: its process must be replaced."""
    del rng
    before, stage.ended_s = set(stage.program.processes), time.monotonic()
    stage.shim.hang("C_Sign", times=1)
    yield
    until(lambda: before - set(stage.program.processes), what="the end of the process with the hanging call")
    until(lambda: _listens(stage), what="a process that listens again")
    stage.shim.clear()


@_case(bound_s=10.0)
def looking_for_the_key_hangs(stage: Stage, rng: random.Random) -> Iterator[None]:
    stage.shim.hang("C_FindObjectsInit")
    stage.shim.fail("C_SignInit", Ckr.SESSION_CLOSED, times=2)
    yield
    _pause(rng, 6, 9)
    stage.shim.clear()


@_case()
def signatures_come_out_wrong(stage: Stage, rng: random.Random) -> Iterator[None]:
    stage.shim.corrupt("C_Sign")
    yield
    _pause(rng)
    stage.shim.clear()


@_case()
def descriptors_are_used_up(stage: Stage, rng: random.Random) -> Iterator[None]:
    """No process of the service may open another file, and other clients take the remaining connections."""
    before = _limit(stage, resource.RLIMIT_NOFILE, 3)
    host, _, port = stage.address.rpartition(":")
    strangers = []
    for _ in range(32):
        with contextlib.suppress(OSError):
            strangers.append(socket.create_connection((host, int(port)), timeout=1))
    yield
    _pause(rng)
    _limit(stage, resource.RLIMIT_NOFILE, before)
    for stranger in strangers:
        stranger.close()


@_case()
def the_disk_under_the_audit_trail_is_full(stage: Stage, rng: random.Random) -> Iterator[None]:
    """No process of the service can write another byte to a file. tests/integration/audit uses a small file system."""
    before = _limit(stage, resource.RLIMIT_FSIZE, 1)
    yield
    _pause(rng)
    _limit(stage, resource.RLIMIT_FSIZE, before)


def _limit(stage: Stage, which: int, soft: int) -> int:
    """Set a limit of every process of the service, also of later ones, and return the old one."""
    before = resource.prlimit(stage.program.pid, which)[0]
    for pid in stage.program.processes:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, which, (soft, resource.prlimit(pid, which)[1]))
    return before


@_case(hurts=False)
def the_clock_jumps(stage: Stage, rng: random.Random) -> Iterator[None]:
    """Forward and back, as when the clock is set, or the machine was suspended."""
    for off_s in (rng.randrange(60, 7200), -rng.randrange(60, 7200), rng.randrange(60, 7200)):
        stage.clock.jump(off_s)
        _pause(rng, 0.5, 1)
    yield
    stage.clock.jump(0)


@_case(bound_s=2.0)
def the_program_is_killed(stage: Stage, rng: random.Random) -> Iterator[None]:
    """With workers it is the supervisor, and they end with it. The restart of the program is part of the cause."""
    del rng
    workers = stage.program.workers
    number = len(stage.program.codes)
    os.kill(stage.program.pid, signal.SIGKILL)
    yield
    until(lambda: len(stage.program.codes) > number, what="the end of the program")
    until(lambda: not any(lives(pid) for pid in workers), what="the workers' end")
    until(lambda: _listens(stage), what="a program that listens again")


def _listens(stage: Stage) -> bool:
    host, _, port = stage.address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


@_case(WORKER_CASES, hurts=False)
def a_worker_is_killed(stage: Stage, rng: random.Random) -> Iterator[None]:
    os.kill(rng.choice(stage.program.workers), signal.SIGKILL)
    yield


@_case(WORKER_CASES)
def every_worker_is_killed(stage: Stage, rng: random.Random) -> Iterator[None]:
    """The restart of the first worker is part of the cause."""
    del rng
    killed = stage.program.workers
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    yield
    until(lambda: not any(lives(pid) for pid in killed), what="the workers' end")  # until then they still listen
    until(lambda: _listens(stage), what="a worker that listens again")


@_case(WORKER_CASES, bound_s=10.0)
def a_worker_is_stopped(stage: Stage, rng: random.Random) -> Iterator[None]:
    os.kill(rng.choice(stage.program.workers), signal.SIGSTOP)
    yield


@_case(WORKER_CASES)
def a_worker_is_stopped_for_a_moment(stage: Stage, rng: random.Random) -> Iterator[None]:
    pid = rng.choice(stage.program.workers)
    os.kill(pid, signal.SIGSTOP)
    yield
    _pause(rng, 0.5, 2)
    os.kill(pid, signal.SIGCONT)
