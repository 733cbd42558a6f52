"""The journal: what is answered is on disk, what fails is never answered, and what a crash leaves is set aside."""

from __future__ import annotations

import errno
import stat
import threading
import time
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from privyseal.transparency.merkle import leaf_hash
from privyseal_service.audit.errors import AuditUnavailableError, WorkerBusyError
from privyseal_service.audit.journal import Journal, Written, open_journal
from privyseal_service.audit.layout import Layout, ends_told_by, head_of, read_synced, segment_numbers, segment_path
from privyseal_service.audit.record import EndReason
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import SOURCE, FaultyFiles, decision, fail_on, no_fault


def folder_of(root: Path) -> Path:
    return Layout(root).worker(SOURCE.worker)


def lines_of(root: Path) -> list[bytes]:
    """All that is on record by the segments' own account, in order."""
    folder = folder_of(root)
    told = {}
    numbers = segment_numbers(folder)
    for number in numbers:
        data = segment_path(folder, number).read_bytes()
        for end in ends_told_by(data.partition(b"\n")[0]) or ():
            told[end.segment] = end.size_bytes
    lines = []
    for number in numbers:
        data = segment_path(folder, number).read_bytes()[: told.get(number)]
        lines += [line for line in data.split(b"\n") if head_of(line)]
    return lines


def assert_on_record(root: Path, written: list[Written]) -> None:
    for one in written:
        data = segment_path(folder_of(root), one.segment).read_bytes()
        line = data[one.offset : data.index(b"\n", one.offset)]
        assert leaf_hash(line) == one.leaf_hash
        assert orjson.loads(line)["n"] == one.number
        assert line in lines_of(root)


class Listener:
    """Waits for the journal's changes of state."""

    def __init__(self) -> None:
        self.heard: list[AuditUnavailableError | None] = []
        self.changed = threading.Condition()

    def __call__(self, failure: AuditUnavailableError | None) -> None:
        with self.changed:
            self.heard.append(failure)
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.heard) >= count, timeout=30)


def test_a_record_is_one_line_at_its_position(tmp_path):
    journal = Journal(tmp_path, SOURCE)
    written = journal.append([decision(1), decision(2)]) + journal.append([decision(3)])
    assert_on_record(tmp_path, written)
    assert [one.number for one in written] == [2, 3, 4]  # the segment's first record is number 1
    journal.close()
    kinds = [orjson.loads(line)["kind"] for line in lines_of(tmp_path)]
    assert kinds == ["segment", "decision", "decision", "decision", "stop"]


def test_files_are_the_owners_alone(tmp_path):
    journal = Journal(tmp_path / "audit", SOURCE)
    journal.append([decision()])
    journal.close()
    for path in [tmp_path / "audit", *(tmp_path / "audit").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    folder_of(tmp_path).chmod(0o770)
    with pytest.raises(AuditUnavailableError, match="chmod go-w"):
        Journal(tmp_path, SOURCE)


def test_two_writers_of_one_name_never_meet(tmp_path):
    journal = Journal(tmp_path, SOURCE)
    with pytest.raises(WorkerBusyError, match="its own name"):
        Journal(tmp_path, SOURCE, lock_patience_s=0.1)
    Journal(tmp_path, Source(SOURCE.replica, "w1")).close()
    journal.close()
    Journal(tmp_path, SOURCE).close()


def test_workers_take_the_first_free_name(tmp_path):
    journals = [open_journal(tmp_path, "replica-1") for _ in range(3)]
    assert [journal.append([decision()])[0].worker for journal in journals] == ["w0", "w1", "w2"]
    journals[1].close()
    journals.append(open_journal(tmp_path, "replica-1"))
    assert journals[3].append([decision()])[0].worker == "w1"
    for journal in journals:
        journal.close()
    assert Layout(tmp_path).workers() == ["w0", "w1", "w2"]


def test_numbers_go_on_over_restarts_and_rotation(tmp_path):
    for start in range(3):
        journal = Journal(tmp_path, SOURCE, rotate_bytes=2_000)
        for i in range(5):
            journal.append([decision(start * 5 + i)])
        journal.close()
    numbers = [orjson.loads(line)["n"] for line in lines_of(tmp_path)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(segment_numbers(folder_of(tmp_path))) > 3
    reasons = {
        end["reason"] for line in map(orjson.loads, lines_of(tmp_path)) if "ended" in line for end in line["ended"]
    }
    assert reasons == {"rotated", "stopped"}


def test_every_answer_comes_after_its_own_sync(tmp_path):
    files = FaultyFiles()
    journal = Journal(tmp_path, SOURCE, rotate_bytes=3_000, files=files)
    for i in range(12):
        before = len(files.diary)
        written = journal.append([decision(i)])
        name = segment_path(folder_of(tmp_path), written[0].segment).name
        assert [verb for verb, of in files.diary[before:] if of == name][-2:] == ["write", "sync"]
    for number in segment_numbers(folder_of(tmp_path)):
        name = segment_path(folder_of(tmp_path), number).name
        created = files.diary.index(("create", name))
        assert files.diary[created + 1 : created + 4] == [("write", name), ("sync", name), ("sync_folder", "w0")]
    journal.close()


def test_the_marker_follows_the_sync(tmp_path):
    files = FaultyFiles()
    journal = Journal(tmp_path, SOURCE, files=files)
    journal.append([decision(1)])
    synced = read_synced(folder_of(tmp_path))
    assert synced.size_bytes == segment_path(folder_of(tmp_path), synced.segment).stat().st_size
    files.fault = fail_on("sync")
    with pytest.raises(AuditUnavailableError):
        journal.append([decision(2)])
    assert read_synced(folder_of(tmp_path)) == synced
    journal.close()


def test_calls_that_wait_together_share_a_sync(tmp_path):
    files = FaultyFiles()
    journal = Journal(tmp_path, SOURCE, files=files)
    first_sync, go = threading.Event(), threading.Event()

    def hold(verb: str, _name: str) -> None:
        if verb == "sync":
            first_sync.set()
            assert go.wait(30)

    files.fault = hold
    files.diary.clear()
    files.lock = threading.RLock()
    threads = [threading.Thread(target=journal.append, args=([decision(0)],))]
    threads[0].start()
    assert first_sync.wait(30)
    threads += [threading.Thread(target=journal.append, args=([decision(i)],)) for i in range(1, 9)]
    for thread in threads[1:]:
        thread.start()
    while len(journal._waiting) < 8:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()
    assert [verb for verb, _ in files.diary] == ["write", "sync", "write", "sync"]
    journal.close()
    assert sum(orjson.loads(line)["kind"] == "decision" for line in lines_of(tmp_path)) == 9


@pytest.mark.parametrize(("verb", "tear"), [("write", 0), ("write", 100), ("write", 5_000), ("sync", 0)])
def test_after_a_failure_nothing_leaves_until_a_record_is_safe_again(tmp_path, verb, tear):
    files, listener = FaultyFiles(tear=tear), Listener()
    journal = Journal(tmp_path, SOURCE, files=files, on_change=listener)
    kept = journal.append([decision(1), decision(2)])
    size = segment_path(folder_of(tmp_path), 1).stat().st_size
    files.fault = fail_on(verb)
    with pytest.raises(AuditUnavailableError, match="Input/output error"):
        journal.append([decision(3)])
    diary_before = [entry for entry in files.diary if entry[1].startswith("0000000001")]
    with pytest.raises(AuditUnavailableError):
        journal.append([decision(4)])
    assert journal.failure is not None
    files.fault = no_fault
    listener.wait_for(2)
    assert [bool(failure) for failure in listener.heard] == [True, False]
    assert journal.failure is None
    kept += journal.append([decision(5)])
    assert_on_record(tmp_path, kept)
    journal.close()

    assert [entry for entry in files.diary if entry[1].startswith("0000000001")] == diary_before, "used after it failed"
    on_record = [orjson.loads(line) for line in lines_of(tmp_path)]
    assert [record.get("request_id") for record in on_record if record["kind"] == "decision"] == [
        "req-1",
        "req-2",
        "req-5",
    ]
    assert [record["n"] for record in on_record] == list(range(1, len(on_record) + 1))
    end = next(end for record in on_record if "ended" in record for end in record["ended"] if end["segment"] == 1)
    assert end["reason"] == f"{verb}-failed"
    assert end["verified"] is True
    assert end["size_bytes"] == size
    data = segment_path(folder_of(tmp_path), 1).read_bytes()
    assert end.get("set_aside_bytes", 0) == len(data) - size
    if len(data) > size:
        assert end["set_aside_sha256"] == sha256(data[size:]).hexdigest()


def assert_healed(journal: Journal, listener: Listener, folder: Path) -> None:
    """The journal writes again by itself, and the records on disk are numbered without a gap."""
    listener.wait_for(2)
    kept = journal.append([decision(2)])
    journal.close()
    assert_on_record(folder, kept)
    numbers = [orjson.loads(line)["n"] for line in lines_of(folder)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("verb", ["create", "write", "sync", "sync_folder"])
def test_a_new_segment_that_fails_at_any_step_counts_for_nothing(tmp_path, verb):
    files, listener = FaultyFiles(), Listener()
    journal = Journal(tmp_path, SOURCE, rotate_bytes=1, files=files, on_change=listener)
    files.fault = fail_on(verb, times=3, code=errno.ENOSPC)
    with pytest.raises(AuditUnavailableError, match="No space left"):
        journal.append([decision(1)])
    assert_healed(journal, listener, tmp_path)


def test_leftovers_that_cannot_be_removed_count_for_nothing(tmp_path):
    files, listener = FaultyFiles(), Listener()
    journal = Journal(tmp_path, SOURCE, rotate_bytes=1, files=files, on_change=listener)
    left = [2]

    def fault(verb: str, _name: str) -> int | None:
        if verb == "remove":
            return errno.EIO
        if verb == "sync" and left[0]:
            left[0] -= 1
            return errno.EIO
        return None

    files.fault = fault
    with pytest.raises(AuditUnavailableError):
        journal.append([decision(1)])
    assert_healed(journal, listener, tmp_path)


def test_a_disk_that_is_full_at_the_start_heals_by_itself(tmp_path):
    files, listener = FaultyFiles(fail_on("write", times=2, code=errno.ENOSPC)), Listener()
    journal = Journal(tmp_path, SOURCE, files=files, on_change=listener)
    assert journal.failure is not None
    listener.wait_for(2)
    assert_on_record(tmp_path, journal.append([decision(1)]))
    journal.close()


def test_damage_to_what_was_synced_is_noted(tmp_path):
    files, listener = FaultyFiles(), Listener()
    journal = Journal(tmp_path, SOURCE, files=files, on_change=listener)
    journal.append([decision(1)])

    def fault(verb: str, name: str) -> int | None:
        if verb != "sync" or not name.startswith("0000000001"):
            return None
        path = segment_path(folder_of(tmp_path), 1)
        path.write_bytes(path.read_bytes().replace(b"req-1", b"req-9"))
        return errno.EIO

    files.fault = fault
    with pytest.raises(AuditUnavailableError):
        journal.append([decision(2)])
    listener.wait_for(2)
    journal.close()
    ends = ends_told_by(segment_path(folder_of(tmp_path), 2).read_bytes().partition(b"\n")[0])
    assert [(end.segment, end.verified) for end in ends] == [(1, False)]


@pytest.mark.parametrize("torn", [b"{", b'{"v":1,"n":9', b"\0" * 500, b"\n\n", b'{"v":1}\n{"v'])
def test_a_torn_last_line_is_set_aside_and_noted(tmp_path, torn):
    journal = Journal(tmp_path, SOURCE)
    kept = journal.append([decision(1), decision(2)])
    journal.close()
    path = segment_path(folder_of(tmp_path), 1)
    with path.open("ab") as file:
        file.write(torn)
    before = path.read_bytes()
    journal = Journal(tmp_path, SOURCE)
    kept += journal.append([decision(3)])
    journal.close()
    assert_on_record(tmp_path, kept)
    assert path.read_bytes() == before, "a segment with a crash's traces was changed"
    (end,) = ends_told_by(segment_path(folder_of(tmp_path), 2).read_bytes().partition(b"\n")[0])
    assert (end.reason, end.set_aside_bytes) == (EndReason.CRASHED, len(torn))
    assert end.set_aside_sha256 == sha256(torn).hexdigest()
    assert [orjson.loads(line)["n"] for line in lines_of(tmp_path)] == list(range(1, 8))


def test_a_crash_before_the_first_record_of_a_segment_leaves_nothing(tmp_path):
    journal = Journal(tmp_path, SOURCE)
    kept = journal.append([decision(1)])
    journal.close()
    segment_path(folder_of(tmp_path), 2).write_bytes(b'{"v":1,"n":4,"ti')
    journal = Journal(tmp_path, SOURCE)
    kept += journal.append([decision(2)])
    journal.close()
    ends = ends_told_by(segment_path(folder_of(tmp_path), 3).read_bytes().partition(b"\n")[0])
    assert [(end.segment, end.size_bytes) for end in ends][1] == (2, 0)
    assert_on_record(tmp_path, kept)


def test_a_record_that_cannot_be_encoded_fails_its_own_call_alone(tmp_path):
    journal = Journal(tmp_path, SOURCE)
    with pytest.raises(ValueError):
        journal.append([decision(1, time_us=1 << 80)])
    assert journal.failure is None
    (written,) = journal.append([decision(2)])
    assert written.number == 2
    journal.close()


def test_a_closed_journal_says_so(tmp_path):
    journal = Journal(tmp_path, SOURCE)
    journal.close()
    journal.close()
    with pytest.raises(AuditUnavailableError, match="closed"):
        journal.append([decision()])


def test_closing_while_the_disk_is_bad_gives_the_folder_back(tmp_path):
    files = FaultyFiles()
    journal = Journal(tmp_path, SOURCE, files=files)
    files.fault = fail_on("sync")
    with pytest.raises(AuditUnavailableError):
        journal.append([decision()])
    journal.close()
    files.fault = no_fault
    Journal(tmp_path, SOURCE).close()
