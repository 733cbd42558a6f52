"""The sequencer: one tree of all that was synced, each record once, whatever happens in between."""

from __future__ import annotations

import errno
import random
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from privyseal.transparency.checkpoint import Checkpoint, Signer, open_checkpoint
from privyseal.transparency.errors import AuditError, NoteError
from privyseal.transparency.merkle import leaf_hash, root_of, verify_consistency
from privyseal_service.audit.errors import AuditUnavailableError, LogIntegrityError
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.layout import Layout, Synced, pack_synced, segment_numbers, segment_path
from privyseal_service.audit.log_reader import LogReader
from privyseal_service.audit.sequencer import Sequencer, merge_order, rest_s
from privyseal_service.domain.replica import Source
from privyseal_service.system.files import SystemFiles
from tests.support.audit.helpers import FaultyFiles, decision, fail_on, no_fault

SIGNER = Signer.generate("audit.example.com/replica-1")


def journal_of(root: Path, worker: str = "w0", **options) -> Journal:
    return Journal(root, Source("replica-1", worker), **options)


def entries_of(root: Path) -> list[bytes]:
    """All records of the tree, after a look at the checkpoint's signature and root."""
    note, _ = LogReader(root).checkpoint()
    checkpoint = open_checkpoint(note, [SIGNER.verifier])
    entries = [record for _, record in LogReader(root).records(0, max(1, checkpoint.size))[0]]
    assert len(entries) == checkpoint.size
    assert root_of([leaf_hash(entry) for entry in entries]) == checkpoint.root
    return entries


def assert_each_once_in_order(root: Path, workers: list[str]) -> None:
    numbers: dict[str, list[int]] = {worker: [] for worker in workers}
    for entry in map(orjson.loads, entries_of(root)):
        numbers[entry["worker"]].append(entry["n"])
    for worker in workers:
        assert numbers[worker] == list(range(1, len(numbers[worker]) + 1)), worker


class Sink:
    """Keeps what was published, and holds every checkpoint against the one before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: list[Checkpoint] = []

    def __call__(self, note: bytes) -> None:
        self.seen.append(open_checkpoint(note, [SIGNER.verifier]))

    def assert_consistent(self) -> None:
        reader = LogReader(self.root)
        for old, new in pairwise(self.seen):
            proof = reader.consistency(old.size, new.size)
            verify_consistency(old.size, new.size, proof, old.root, new.root)


def test_a_new_log_signs_the_empty_tree(tmp_path):
    sink = Sink(tmp_path)
    Sequencer(tmp_path, SIGNER, publish=sink).close()
    assert [checkpoint.size for checkpoint in sink.seen] == [0]
    assert entries_of(tmp_path) == []


def test_records_of_all_workers_become_one_tree_in_time_order(tmp_path):
    journals = [journal_of(tmp_path, f"w{i}", clock_ns=lambda: 1_000) for i in range(3)]
    sequencer = Sequencer(tmp_path, SIGNER)
    for i in range(30):
        journals[i % 3].append([decision(i)])
    assert sequencer.merge() > 0
    times = [orjson.loads(entry)["time"] for entry in entries_of(tmp_path)]
    assert times == sorted(times)
    assert_each_once_in_order(tmp_path, ["w0", "w1", "w2"])
    assert sequencer.merge() == 0
    for journal in journals:
        journal.close()
    sequencer.close()


def test_a_clock_set_back_does_not_reorder_a_worker(tmp_path):
    journal = journal_of(tmp_path)
    journal.append([decision(50), decision(10), decision(60), decision(20)])
    sequencer = Sequencer(tmp_path, SIGNER)
    sequencer.merge()
    assert_each_once_in_order(tmp_path, ["w0"])
    journal.close()
    sequencer.close()


def test_only_what_is_synced_is_merged(tmp_path):
    files = FaultyFiles()
    journal = journal_of(tmp_path, files=files)
    journal.append([decision(1)])
    files.fault = fail_on("sync")
    with pytest.raises(AuditUnavailableError):
        journal.append([decision(2)])
    sequencer = Sequencer(tmp_path, SIGNER)
    sequencer.merge()
    assert b"req-1" in b"".join(entries_of(tmp_path))
    assert b"req-2" not in b"".join(entries_of(tmp_path))
    files.fault = no_fault
    while journal.failure is not None:
        threading.Event().wait(0.01)
    journal.append([decision(3)])
    journal.close()
    sequencer.merge()
    sequencer.close()
    assert b"req-2" not in b"".join(entries_of(tmp_path))
    assert_each_once_in_order(tmp_path, ["w0"])


def test_all_that_a_dead_worker_wrote_is_merged_but_its_torn_line(tmp_path):
    journal = journal_of(tmp_path)
    journal.append([decision(1)])
    journal.close()
    folder = Layout(tmp_path).worker("w0")
    path = segment_path(folder, 1)
    path.write_bytes(path.read_bytes() + b'{"v":1,"n":4,')
    (folder / "synced").unlink()  # as after the host's crash
    sequencer = Sequencer(tmp_path, SIGNER)
    sequencer.merge()
    assert len(entries_of(tmp_path)) == 3
    journal = journal_of(tmp_path)
    journal.append([decision(2)])
    journal.close()
    sequencer.merge()
    assert_each_once_in_order(tmp_path, ["w0"])
    assert b'"set_aside_bytes":13' in b"".join(entries_of(tmp_path))
    assert sequencer.merge() == 0
    sequencer.close()


def test_segments_that_rotate_are_followed(tmp_path):
    sequencer = Sequencer(tmp_path, SIGNER)
    journal = journal_of(tmp_path, rotate_bytes=2_000)
    for i in range(60):
        journal.append([decision(i)])
        if i % 7 == 0:
            sequencer.merge()
    journal.close()
    sequencer.merge()
    sequencer.close()
    assert len(entries_of(tmp_path)) == 60 + len(segment_numbers(Layout(tmp_path).worker("w0"))) + 1
    assert_each_once_in_order(tmp_path, ["w0"])


def test_much_is_merged_in_fair_shares(tmp_path, monkeypatch):
    monkeypatch.setattr("privyseal_service.audit.sequencer._MERGE_BYTES", 8_000)
    monkeypatch.setattr("privyseal_service.audit.sequencer._SMALLEST_SHARE_BYTES", 4_000)
    for worker, count in (("w0", 100), ("w1", 3)):
        journal = journal_of(tmp_path, worker)
        journal.append([decision(i) for i in range(count)])
        journal.close()
    sequencer = Sequencer(tmp_path, SIGNER)
    assert 4_000 < sequencer.merge() <= 8_000
    assert {orjson.loads(entry)["worker"] for entry in entries_of(tmp_path)} == {"w0", "w1"}
    while sequencer.merge():
        pass
    sequencer.close()
    assert_each_once_in_order(tmp_path, ["w0", "w1"])
    assert len(entries_of(tmp_path)) == 100 + 3 + 4


@pytest.mark.parametrize("share", [900, 1_700, 2_500, 3_999, 7_001])
def test_a_share_that_ends_within_a_segment_leaves_nothing_out(tmp_path, monkeypatch, share):
    monkeypatch.setattr("privyseal_service.audit.sequencer._MERGE_BYTES", share)
    monkeypatch.setattr("privyseal_service.audit.sequencer._SMALLEST_SHARE_BYTES", share)
    journal = journal_of(tmp_path, rotate_bytes=4_000)
    for i in range(60):
        journal.append([decision(i)])
    journal.close()
    sequencer = Sequencer(tmp_path, SIGNER)
    while sequencer.merge():
        pass
    sequencer.close()
    assert_each_once_in_order(tmp_path, ["w0"])
    assert len(entries_of(tmp_path)) == 60 + len(segment_numbers(Layout(tmp_path).worker("w0"))) + 1


def test_damage_in_a_segment_is_reported_and_the_rest_is_merged(tmp_path):
    journal = journal_of(tmp_path)
    journal.append([decision(i) for i in range(5)])
    path = segment_path(Layout(tmp_path).worker("w0"), 1)
    data = path.read_bytes()
    at = data.index(b'{"v":1,"n":3,')
    path.write_bytes(data[:at] + b"\0" * 40 + data[at + 40 :])
    said: list[str] = []
    sequencer = Sequencer(tmp_path, SIGNER, report=said.append)
    sequencer.merge()
    journal.close()
    sequencer.close()
    assert [orjson.loads(entry)["n"] for entry in entries_of(tmp_path)] == [1, 2, 4, 5, 6]
    assert len(said) == 1
    assert "damaged" in said[0]


def test_a_worker_that_lies_of_what_it_has_synced_keeps_no_other_out(tmp_path):
    liar, honest = journal_of(tmp_path), journal_of(tmp_path, "w1")
    liar.append([decision(1)])
    (Layout(tmp_path).worker("w0") / "synced").write_bytes(pack_synced(Synced(1, 2**64 - 1)))
    said: list[str] = []
    sequencer = Sequencer(tmp_path, SIGNER, report=said.append)
    for i in range(4):
        honest.append([decision(i)])
        sequencer.merge()
    assert [entry["n"] for entry in map(orjson.loads, entries_of(tmp_path)) if entry["worker"] == "w1"] == [
        *range(1, 6)
    ]
    assert "damaged" in said[0]
    liar.close()
    honest.close()
    sequencer.close()


def test_a_defect_is_told_and_does_not_end_it(tmp_path, monkeypatch):
    journal = journal_of(tmp_path)
    journal.append([decision(1)])
    told, said = threading.Event(), []
    sequencer = Sequencer(tmp_path, SIGNER, report=lambda sentence: (said.append(sentence), told.set()))
    stop = threading.Event()
    with monkeypatch.context() as broken:
        broken.setattr("privyseal_service.audit.sequencer.merge_order", lambda _: 1 / 0)
        thread = threading.Thread(target=sequencer.run, args=(stop, 0.01))
        thread.start()
        assert told.wait(30)
    stop.set()
    thread.join()
    journal.close()
    sequencer.close()
    assert said[0].startswith("the audit tree does not grow: a fault of the program itself, ZeroDivisionError")
    assert said[1:] == ["the audit tree grows again"]
    assert len(entries_of(tmp_path)) == 2


def test_two_sequencers_never_meet(tmp_path):
    sequencer = Sequencer(tmp_path, SIGNER)
    with pytest.raises(AuditError, match="only one"):
        Sequencer(tmp_path, SIGNER)
    sequencer.close()
    sequencer.close()
    Sequencer(tmp_path, SIGNER).close()


def test_records_of_one_time_come_by_their_workers_names():
    pieces = [("w1", [(b"1", b"a"), (b"2", b"b")]), ("w0", [(b"2", b"c"), (b"1", b"d"), (b"3", b"e")])]
    pieces += [("w1", [(b"0", b"f"), (b"4", b"g")]), ("w0", [(b"3", b"h")])]
    assert merge_order(pieces) == [b"a", b"c", b"d", b"b", b"f", b"e", b"h", b"g"]


def test_a_tile_that_stays_as_it_is_costs_nothing(tmp_path):
    journal, files = journal_of(tmp_path), FaultyFiles()
    sequencer = Sequencer(tmp_path, SIGNER, files=files)
    journal.append([decision(i) for i in range(300)])
    sequencer.merge()
    assert ("rename", "1") in files.diary  # tile/1/000.p/1
    files.diary.clear()
    journal.append([decision(301)])
    sequencer.merge()
    assert [name for verb, name in files.diary if verb == "rename"] == ["state.json", "46", "46", "checkpoint"]
    assert [name for verb, name in files.diary if verb == "sync_folder"].count("000.p") == 0
    sequencer.reload()  # what another may have begun is looked at again
    files.diary.clear()
    journal.append([decision(302)])
    sequencer.merge()
    assert [name for verb, name in files.diary if verb == "sync_folder"].count("000.p") == 1
    journal.close()
    sequencer.close()


@pytest.mark.parametrize(("took_s", "rest"), [(0.0, 0.5), (0.1, 0.4), (0.4, 0.1), (3.0, 0.1)])
def test_merges_begin_at_an_interval_and_leave_a_slow_disk_some_rest(took_s, rest):
    assert rest_s(took_s, 0.5) == pytest.approx(rest)


def test_partial_tiles_go_when_the_tile_is_full(tmp_path):
    journal = journal_of(tmp_path)
    sequencer = Sequencer(tmp_path, SIGNER)
    for start in range(0, 600, 50):
        journal.append([decision(i) for i in range(start, start + 50)])
        sequencer.merge()
    journal.close()
    sequencer.close()
    folders = sorted(str(path.relative_to(tmp_path / "log")) for path in (tmp_path / "log").rglob("*.p"))
    assert folders == ["tile/0/002.p", "tile/1/000.p", "tile/entries/002.p"]


def test_old_segments_go_only_when_they_are_in_the_tree(tmp_path):
    journal = journal_of(tmp_path, rotate_bytes=2_000)
    for i in range(30):
        journal.append([decision(i)])
    folder = Layout(tmp_path).worker("w0")
    before = segment_numbers(folder)
    sequencer = Sequencer(tmp_path, SIGNER, keep_segments_s=3_600)
    sequencer.merge()
    assert segment_numbers(folder) == before
    sequencer.close()
    sequencer = Sequencer(tmp_path, SIGNER, keep_segments_s=3_600, clock_s=lambda: 2**40)
    journal.append([decision(31)])
    sequencer.merge()
    sequencer.close()
    assert len(segment_numbers(folder)) == 1
    journal.close()
    journal = journal_of(tmp_path)
    journal.append([decision(32)])
    journal.close()
    sequencer = Sequencer(tmp_path, SIGNER)
    sequencer.merge()
    sequencer.close()
    assert_each_once_in_order(tmp_path, ["w0"])


class Crash(BaseException):
    """The process ends here."""


class CrashingFiles(SystemFiles):
    """Real files until the `left`-th call; then the process is gone, perhaps with half a write done."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash

    def create(self, path):
        self._step()
        return super().create(path)

    def write(self, descriptor, data):
        if self.left == 0:
            super().write(descriptor, data[: len(data) // 2])
        self._step()
        super().write(descriptor, data)

    def sync(self, descriptor):
        self._step()
        super().sync(descriptor)

    def sync_folder(self, folder):
        self._step()
        super().sync_folder(folder)

    def rename(self, source, target):
        self._step()
        super().rename(source, target)

    def remove(self, path):
        self._step()
        super().remove(path)


def run_until_crash(root: Path, files: SystemFiles, sink: Sink) -> bool:
    """One sequencer's life; whether it ended in a crash."""
    sequencer = None
    try:
        sequencer = Sequencer(root, SIGNER, files=files, publish=sink)
        while sequencer.merge():
            pass
    except Crash:
        return True
    finally:
        if sequencer is not None:
            sequencer.close()
    return False


def test_a_crash_at_any_step_is_resumed_exactly(tmp_path):
    """Every point at which a merge can stop, in a log that is new, that grows, and whose tiles become full."""
    steps = 0
    while True:
        root = tmp_path / f"crash-{steps}"
        sink = Sink(root)
        journal = journal_of(root)
        journal.append([decision(i) for i in range(250)])
        crashed = run_until_crash(root, CrashingFiles(steps), sink)
        journal.append([decision(i) for i in range(250, 300)])
        crashed = run_until_crash(root, CrashingFiles(steps), sink) or crashed
        journal.append([decision(i) for i in range(300, 320)])
        crashed = run_until_crash(root, CrashingFiles(steps), sink) or crashed
        journal.close()
        assert not run_until_crash(root, SystemFiles(), sink)
        assert_each_once_in_order(root, ["w0"])
        assert len(entries_of(root)) == 322
        sink.assert_consistent()
        assert not list((root / "log").rglob("*.tmp"))
        shutil.rmtree(root)
        if not crashed:
            break
        steps += 1
    assert steps > 40


def test_restarts_at_random_points_under_load(tmp_path):
    """Workers write and rotate, sequencers live for some steps each; the seed is in the test's name if it fails."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    sink = Sink(tmp_path)
    journals = {name: journal_of(tmp_path, name, rotate_bytes=5_000) for name in ("w0", "w1")}
    for i in range(50):
        name = chance.choice(list(journals))
        journals[name].append([decision(i * 100 + j) for j in range(chance.randrange(1, 30))])
        if chance.random() < 0.2:
            journals[name].close()
            journals[name] = journal_of(tmp_path, name, rotate_bytes=5_000)
        run_until_crash(tmp_path, CrashingFiles(chance.randrange(60)), sink)
    for journal in journals.values():
        journal.close()
    assert not run_until_crash(tmp_path, SystemFiles(), sink), seed
    assert_each_once_in_order(tmp_path, ["w0", "w1"])
    sink.assert_consistent()


@pytest.mark.parametrize("verb", ["create", "write", "sync", "rename", "sync_folder"])
def test_a_full_disk_stops_the_tree_until_there_is_room(tmp_path, verb):
    files, said = FaultyFiles(), []
    sequencer = Sequencer(tmp_path, SIGNER, files=files, report=said.append)
    journal = journal_of(tmp_path)
    journal.append([decision(i) for i in range(300)])
    files.fault = fail_on(verb, code=errno.ENOSPC)
    stop = threading.Event()
    stop.set()
    sequencer.run(stop)
    assert "No space left" in sequencer.problem
    sequencer.run(stop)
    files.fault = no_fault
    sequencer.run(stop)
    assert sequencer.problem is None
    assert said[0].startswith("the audit tree does not grow: [Errno 28]")
    assert said[-1] == "the audit tree grows again"
    journal.close()
    sequencer.run(stop)
    sequencer.close()
    assert len(entries_of(tmp_path)) == 302
    assert_each_once_in_order(tmp_path, ["w0"])


def test_it_runs_until_it_is_stopped_and_merges_the_last(tmp_path):
    journal = journal_of(tmp_path)
    grown = threading.Event()

    def publish(note: bytes) -> None:
        if open_checkpoint(note, [SIGNER.verifier]).size >= 2:
            grown.set()

    sequencer = Sequencer(tmp_path, SIGNER, publish=publish)
    stop = threading.Event()
    thread = threading.Thread(target=sequencer.run, args=(stop, 0.01))
    thread.start()
    journal.append([decision(1)])
    assert grown.wait(30)
    journal.append([decision(2)])
    journal.close()
    stop.set()
    thread.join()
    sequencer.close()
    assert len(entries_of(tmp_path)) == 4


def log_with(root: Path, count: int) -> None:
    journal = journal_of(root)
    journal.append([decision(i) for i in range(count)])
    journal.close()
    sequencer = Sequencer(root, SIGNER)
    sequencer.merge()
    sequencer.close()


def tamper(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (lambda root: (root / "log/checkpoint").unlink(), LogIntegrityError, "log/checkpoint: is missing"),
        (lambda root: tamper(root / "log/checkpoint", b"\n12\n", b"\n11\n"), NoteError, "is wrong"),
        (lambda root: (root / "sequencer/state.json").unlink(), LogIntegrityError, "state.json: is missing"),
        (lambda root: (root / "sequencer/state.json").write_bytes(b"{}"), LogIntegrityError, "not what the sequencer"),
        (
            lambda root: tamper(root / "sequencer/state.json", b'"next_size": 12', b'"next_size": 13'),
            LogIntegrityError,
            "does not belong",
        ),
        (
            lambda root: (root / "log/tile/0/000.p/12").write_bytes(bytes(12 * 32)),
            LogIntegrityError,
            "do not lead to the signed root",
        ),
    ],
)
def test_files_that_contradict_each_other_stop_the_sequencer(tmp_path, harm, error, says):
    log_with(tmp_path, 10)
    harm(tmp_path)
    with pytest.raises(error, match=says):
        Sequencer(tmp_path, SIGNER)


def test_a_full_tile_is_never_overwritten(tmp_path):
    log_with(tmp_path, 200)
    (tmp_path / "log/tile/entries/000").write_bytes(b"planted")
    journal = journal_of(tmp_path)
    journal.append([decision(i) for i in range(100)])
    journal.close()
    sequencer = Sequencer(tmp_path, SIGNER)
    with pytest.raises(LogIntegrityError, match="log/tile/entries/000: is there already"):
        sequencer.merge()
    sequencer.close()
    assert (tmp_path / "log/tile/entries/000").read_bytes() == b"planted"


def test_another_key_cannot_go_on_with_a_log(tmp_path):
    log_with(tmp_path, 3)
    with pytest.raises(NoteError, match="none of its known keys"):
        Sequencer(tmp_path, Signer.generate(SIGNER.verifier.name))
    with pytest.raises(NoteError, match="no public key is known"):
        Sequencer(tmp_path, Signer.generate("other.example.com/log"))
    with pytest.raises(LogIntegrityError, match="another log"):
        Sequencer(tmp_path, Signer.generate("other.example.com/log"), former_keys=[SIGNER.verifier])


def test_a_new_key_of_the_same_name_takes_over(tmp_path):
    log_with(tmp_path, 3)
    successor = Signer.generate(SIGNER.verifier.name)
    journal = journal_of(tmp_path)
    journal.append([decision(9)])
    journal.close()
    sequencer = Sequencer(tmp_path, successor, former_keys=[SIGNER.verifier])
    sequencer.merge()
    sequencer.close()
    note, _ = LogReader(tmp_path).checkpoint()
    assert open_checkpoint(note, [successor.verifier]).size == 8
