"""The file of counts: the same answers as the library's own storage, shared by processes, kept over a restart."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privyseal_service.limits.shared_counters import ContendedError, CountersError, FileCounters
from privyseal_service.limits.sliding_window import Window, room_after_s


class Clock:
    def __init__(self, now_s: float = 1_000_000.25) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters(tmp_path: Path, clock: Clock) -> FileCounters:
    return FileCounters(tmp_path / "limits", clock=clock, slots=256)


def test_a_window_from_the_first_hit_on(counters: FileCounters, clock: Clock) -> None:
    assert [counters.incr("a", 10), counters.incr("a", 10, 5), counters.incr("b", 10)] == [1, 6, 1]
    assert (counters.get("a"), counters.get_expiry("a")) == (6, clock.now_s + 10)
    clock.now_s += 9.9
    assert counters.get("a") == 6
    clock.now_s += 0.2
    assert (counters.get("a"), counters.incr("a", 10)) == (0, 1)
    counters.clear("a")
    assert counters.get("a") == 0


def test_a_sliding_window(counters: FileCounters, clock: Clock) -> None:
    clock.now_s = 1_000_000.0
    assert [counters.acquire_sliding_window_entry("a", 10, 10, cost) for cost in (6, 5, 4)] == [True, False, True]
    clock.now_s += 15  # half of the window before still weighs: 5
    assert counters.get_sliding_window("a", 10) == (10, 5.0, 0, 15.0)
    assert not counters.acquire_sliding_window_entry("a", 10, 10, 6)
    assert counters.acquire_sliding_window_entry("a", 10, 10, 5)
    clock.now_s += 30
    assert counters.get_sliding_window("a", 10)[::2] == (0, 0)
    assert not counters.acquire_sliding_window_entry("a", 10, 10, 11)


@pytest.mark.parametrize("jump_s", [-7 * 86400, 7 * 86400])
def test_a_clock_that_jumps_locks_nobody_out(counters: FileCounters, clock: Clock, jump_s: float) -> None:
    assert counters.acquire_sliding_window_entry("a", 10, 10, 10)
    clock.now_s += jump_s
    assert counters.acquire_sliding_window_entry("a", 10, 10, 10)
    assert not counters.acquire_sliding_window_entry("a", 10, 10, 1)


def test_counts_outlive_the_process(tmp_path: Path, clock: Clock) -> None:
    first = FileCounters(tmp_path / "state" / "limits", clock=clock)
    first.incr("a", 100, 7)
    first.close()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "limits").stat().st_mode & 0o077 == 0
    second = FileCounters(tmp_path / "state" / "limits", clock=clock)
    assert second.get("a") == 7
    assert second.reset() is None
    assert (second.get("a"), second.check()) == (0, True)


HIT = """
import sys
from pathlib import Path
from privyseal_service.limits.shared_counters import FileCounters
counters = FileCounters(Path(sys.argv[1]), patient=True)
print(sum(counters.acquire_sliding_window_entry("a", 1500, 100_000, 1) for _ in range(1000)))
for _ in range(500):
    counters.incr("b", 1000)
"""


def test_processes_count_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HIT, str(tmp_path / "limits")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    allowed = [int(process.communicate(timeout=200)[0]) for process in running]
    assert sum(allowed) == 1500
    assert FileCounters(tmp_path / "limits").get("b") == 1500


HIT_WITHOUT_END = """
import sys
from pathlib import Path
from privyseal_service.limits.shared_counters import FileCounters
counters = FileCounters(Path(sys.argv[1]), patient=True)
while True:
    print(counters.incr("a", 100_000), flush=True)
"""


def test_a_killed_process_leaves_the_counts_and_no_lock(tmp_path: Path) -> None:
    """Each process is killed (SIGKILL) while it counts; what it reported stays counted, and others go on."""
    reported = 0
    for _ in range(3):
        command = [sys.executable, "-c", HIT_WITHOUT_END, str(tmp_path / "limits")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as counting:
            assert counting.stdout is not None
            first = int(counting.stdout.readline())
            for _ in range(500):
                counting.stdout.readline()
            counting.kill()
        assert first > reported
        reported = first + 500
        assert FileCounters(tmp_path / "limits", patient=True).get("a") >= reported


def test_a_lock_that_somebody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privyseal_service.limits.shared_counters._PATIENCE_S", 0.05)
    file = tmp_path / "limits"
    quick, patient = FileCounters(file), FileCounters(file, patient=True)
    holder = os.open(file, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(ContendedError):
        quick.incr("a", 10)
    with pytest.raises(CountersError, match="keeps the file of counts locked"):
        patient.incr("a", 10)
    os.close(holder)
    assert (quick.incr("a", 10), patient.incr("a", 10)) == (1, 2)


def test_a_table_that_is_full_refuses(tmp_path: Path, clock: Clock) -> None:
    counters = FileCounters(tmp_path / "limits", slots=64, clock=clock)
    for number in range(64):
        counters.incr(str(number), 10)
    with pytest.raises(CountersError, match="is full"):
        counters.incr("one more", 10)
    assert counters.incr("7", 10) == 2
    clock.now_s += 11
    assert counters.incr("one more", 10) == 1


@pytest.mark.parametrize("content", [b"x", b"\0" * 5000, b"privyseal counts 2\n"])
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "limits").write_bytes(content)
    with pytest.raises(CountersError, match="is not a file of counts"):
        FileCounters(tmp_path / "limits")
    assert (tmp_path / "limits").read_bytes() == content


def test_the_file_of_another_user_is_not_counted_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileCounters(tmp_path / "limits").close()
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CountersError, match="another user's"):
        FileCounters(tmp_path / "limits")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "limits").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CountersError, match="cannot be used"):
        FileCounters(tmp_path / "limits")
    assert not (tmp_path / "elsewhere").exists()


@given(
    previous=st.integers(0, 500), current=st.integers(0, 500), left=st.floats(0.001, 10), amount=st.integers(1, 400),
    cost=st.integers(1, 400),
)  # fmt: skip
@example(previous=1, current=0, left=10.0, amount=1, cost=1)
@settings(max_examples=300, deadline=None)
def test_there_is_room_when_it_is_said(previous: int, current: int, left: float, amount: int, cost: int) -> None:
    """Whoever waits as long as told gets in, as long as nobody else comes."""
    window = Window(previous, current, left)
    wait_s = room_after_s(window, amount, 10, cost)
    assert 0 <= wait_s <= 20
    if cost > amount:
        return
    left_s = left - wait_s - 1e-6
    later = Window(previous, current, left_s) if left_s > 0 else Window(current, 0, left_s + 10)
    assert int(later.held(10)) + cost <= amount or wait_s == 0.0
    assert (wait_s == 0.0) == (int(window.held(10)) + cost <= amount)
