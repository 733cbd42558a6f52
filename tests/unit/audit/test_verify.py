"""`audit verify`: each kind of manipulation is found, and its first place is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from privyseal.transparency.checkpoint import Checkpoint, Signer, open_checkpoint
from privyseal.transparency.merkle import leaf_hash
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.layout import Layout, segment_numbers, segment_path
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.audit.tiles import GrowingTree, pack_entries, tiles_of, unpack_entries
from privyseal_service.audit.verify import verify
from privyseal_service.audit.verify_report import MAX_FINDINGS
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import decision

SIGNER = Signer.generate("audit.example.com/replica-1")
KEYS = [SIGNER.verifier]
SIZE = 708
"""Two full bundles and one of 196: 700 decisions of two workers, a first record of each of 6 segments, and 2 stops."""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A trail of two workers with some outside checkpoints in `outside`, one note a file, and `outside/all`."""
    folder = tmp_path_factory.mktemp("original")
    notes: list[bytes] = []
    root = folder / "audit"
    journals = [Journal(root, Source("replica-1", f"w{i}"), rotate_bytes=100_000) for i in range(2)]
    sequencer = Sequencer(root, SIGNER, publish=notes.append)
    for start in range(0, 700, 100):
        for i in range(start, start + 100):
            journals[i % 2].append([decision(i)])
        sequencer.merge()
    for journal in journals:
        journal.close()
    sequencer.merge()
    sequencer.close()
    (folder / "outside").mkdir()
    for note in notes:
        (folder / "outside" / str(open_checkpoint(note, KEYS).size)).write_bytes(note)
    (folder / "outside" / "all").write_bytes(b"\n".join(notes))
    lines = [json.dumps({"audit_checkpoint": note.decode()}) for note in notes]
    (folder / "outside" / "log.json").write_text("\n".join(["listening mtls 127.0.0.1:1", '{"other": 1}', *lines]))
    return folder


@pytest.fixture
def trail(original, tmp_path) -> Path:
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def bundle_path(root: Path, index: int) -> Path:
    bundle = index // 256
    width = min(256, SIZE - bundle * 256)
    return root / "log/tile/entries" / (f"{bundle:03d}" + (f".p/{width}" if width < 256 else ""))


def change_entries(root: Path, index: int, change: Callable[[list[bytes], int], None]) -> None:
    path = bundle_path(root, index)
    entries = unpack_entries(path.read_bytes())
    change(entries, index % 256)
    path.write_bytes(pack_entries(entries))


def replace(entries: list[bytes], at: int) -> None:
    entries[at] = entries[at].replace(b'"outcome":"answered"', b'"outcome":"refused"')


def remove(entries: list[bytes], at: int) -> None:
    entries.append(entries[-1])
    del entries[at]


def insert(entries: list[bytes], at: int) -> None:
    entries.insert(at, entries[at].replace(b"answered", b"denied"))
    del entries[-1]


def swap(entries: list[bytes], at: int) -> None:
    entries[at], entries[at + 1] = entries[at + 1], entries[at]


def move(entries: list[bytes], at: int) -> None:
    entries.insert(at, entries.pop(at + 9))


def findings(trail: Path, *outside: str, **options) -> list[str]:
    report = verify(trail / "audit", KEYS, outside=[trail / "outside" / name for name in outside], **options)
    return [str(finding) for finding in report.findings]


def test_an_honest_trail_holds(trail):
    report = verify(trail / "audit", KEYS)
    assert report.ok, report.findings
    assert report.records == SIZE
    assert report.unmerged == 0
    assert report.notes == []
    assert report.checkpoint.size == SIZE
    for outside in ("all", "log.json"):
        report = verify(trail / "audit", KEYS, outside=[trail / "outside" / outside])
        assert report.ok, report.findings
        assert report.anchors > 8


def test_what_is_not_merged_yet_is_told(trail):
    journal = Journal(trail / "audit", Source("replica-1", "w0"))
    journal.append([decision(1), decision(2)])
    report = verify(trail / "audit", KEYS)
    assert report.ok, report.findings
    assert report.unmerged == 3
    assert "not yet in the tree" in report.notes[0]
    journal.close()


def test_a_torn_line_is_a_note_and_no_finding(trail):
    folder = Layout(trail / "audit").worker("w1")
    with segment_path(folder, segment_numbers(folder)[-1]).open("ab") as file:
        file.write(b'{"v":1,"n":9')
    report = verify(trail / "audit", KEYS)
    assert report.ok, report.findings
    assert any("12 bytes after its last record are set aside" in note for note in report.notes)


@pytest.mark.parametrize("index", [0, 1, 255, 256, 300, 511, 512, 650, SIZE - 12])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (replace, "was changed"),
        (remove, "was removed"),
        (insert, "was inserted"),
        (swap, "was exchanged"),
        (move, "inserted|reordered"),
    ],
)
def test_a_manipulated_record_is_named(trail, index, change, says):
    if index % 256 + 9 >= 256:
        index -= 9
    if change in (replace, insert) and index == 0:
        index = 5
    change_entries(trail / "audit", index, change)
    first = findings(trail)[0]
    path = bundle_path(Path(), index)
    assert first.startswith(f"record {index} ({path}, entry {index % 256}): ")
    assert any(word in first for word in says.split("|"))


def test_the_last_record_of_a_bundle_changed_or_removed(trail):
    change_entries(trail / "audit", 255, replace)
    assert findings(trail)[0].startswith("record 255 (log/tile/entries/000, entry 255): was changed")


def test_one_change_is_one_finding_of_the_tree_and_one_of_the_segment(trail):
    change_entries(trail / "audit", 300, replace)
    found = findings(trail, "all")
    assert len(found) == 2
    assert found[1].startswith("record 300: differs from the same record at segments/w")


def test_without_segments_the_tree_still_tells(trail):
    shutil.rmtree(trail / "audit/segments")
    assert findings(trail) == []
    change_entries(trail / "audit", 300, replace)
    assert len(findings(trail)) == 1


@pytest.mark.parametrize("index", [300, 600])
def test_a_changed_hash_is_named(trail, index):
    bundle = index // 256
    name = f"log/tile/0/{bundle:03d}" + ("" if bundle < 2 else ".p/196")
    path = trail / "audit" / name
    data = bytearray(path.read_bytes())
    data[index % 256 * 32] ^= 1
    path.write_bytes(data)
    assert findings(trail)[0] == f"record {index}: its hash in {name} was changed"


def test_a_hash_above_the_leaves_is_named(trail):
    path = trail / "audit/log/tile/1/000.p/2"
    data = bytearray(path.read_bytes())
    data[32] ^= 1
    path.write_bytes(data)
    assert "records 256 to 511: do not lead to the hash that log/tile/1/000.p/2 has of them" in findings(trail)


def sizes_outside(trail: Path) -> list[int]:
    return [int(path.name) for path in (trail / "outside").iterdir() if path.name.isdigit()]


def rewrite(root: Path, entries: list[bytes]) -> Checkpoint:
    """What somebody with all rights on the host does: every bundle and tile made anew over other entries."""
    shutil.rmtree(root / "log/tile")
    tree = GrowingTree()
    tree.extend(entries)
    for path, data in tree.take_full() + tree.partial():
        (root / "log" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "log" / path).write_bytes(data)
    return Checkpoint(SIGNER.verifier.name, tree.size, tree.root())


def all_entries(root: Path) -> list[bytes]:
    return [entry for start in range(0, SIZE, 256) for entry in unpack_entries(bundle_path(root, start).read_bytes())]


def test_an_entry_with_its_hashes_is_held_against_the_checkpoint(trail):
    """Everything but the signature is consistent: the segments say which record it is, older checkpoints where."""
    entries = all_entries(trail / "audit")
    replace(entries, 250)
    rewrite(trail / "audit", entries)
    found = findings(trail)
    assert found[0].startswith("record 250: differs from the same record at segments/w")
    assert found[1].startswith(f"records 0 to {SIZE - 1}: do not lead to the root that log/checkpoint is signed for")
    shutil.rmtree(trail / "audit/segments")
    found = findings(trail, "all")
    before = max(size for size in sizes_outside(trail) if size <= 250)
    after = min(size for size in sizes_outside(trail) if size > 250)
    assert found[0].startswith(f"records {before} to {after - 1}: do not lead to the root that {trail}")


@pytest.mark.parametrize("with_segments", [True, False])
def test_a_log_rewritten_with_its_own_key_is_caught_from_outside(trail, with_segments):
    entries = all_entries(trail / "audit")
    replace(entries, 250)
    checkpoint = rewrite(trail / "audit", entries)
    (trail / "audit/log/checkpoint").write_bytes(SIGNER.sign(checkpoint.text()))
    shutil.rmtree(trail / "audit/segments")
    if with_segments:
        (trail / "audit/segments").mkdir()
    assert findings(trail) == [], "from the inside it cannot be seen"
    found = findings(trail, "all")
    assert "signed for the same number of records with different roots" in found[0]
    assert any(finding.startswith("records 2") and "do not lead to the root" in finding for finding in found)
    size = min(size for size in sizes_outside(trail) if size > 250)
    (one,) = findings(trail, str(size))
    assert one.startswith(f"records 0 to {size - 1}: do not lead to the root")


def test_a_cut_end_is_caught_from_outside(trail):
    cut = rewrite(trail / "audit", all_entries(trail / "audit")[:650])
    (trail / "audit/log/checkpoint").write_bytes(SIGNER.sign(cut.text()))
    shutil.rmtree(trail / "audit/segments")
    assert findings(trail) == []
    (found,) = findings(trail, str(SIZE))
    assert (
        found == f"record 650: the log ends here, but {trail}/outside/{SIZE} is signed for {SIZE}: the end was cut off"
    )


def test_a_cut_end_without_its_checkpoint_is_caught(trail):
    bundle_path(trail / "audit", 600).unlink()
    assert findings(trail)[0].startswith("records 512 to 707: cannot be read: log/tile/entries/002.p/196 is missing")


def test_a_missing_checkpoint_is_caught_and_an_outside_one_stands_in(trail):
    (trail / "audit/log/checkpoint").unlink()
    assert findings(trail) == ["log/checkpoint: is missing"]
    change_entries(trail / "audit", 300, replace)
    found = findings(trail, str(SIZE))
    assert found[0] == "log/checkpoint: is missing"
    assert found[1].startswith("record 300 (log/tile/entries/001, entry 44): was changed")


def test_wrong_signatures_are_named(trail):
    other = Signer.generate(SIGNER.verifier.name)
    path = trail / "audit/log/checkpoint"
    note = path.read_bytes()
    checkpoint = open_checkpoint(note, KEYS)
    path.write_bytes(other.sign(checkpoint.text()))
    assert findings(trail) == [
        f"log/checkpoint: the checkpoint of {checkpoint.origin} is signed by none of its known keys"
    ]
    path.write_bytes(note.replace(f"\n{SIZE}\n".encode(), b"\n707\n"))
    (found,) = findings(trail)
    assert found.startswith("log/checkpoint: the signature of")
    path.write_bytes(note)
    (trail / "outside/forged").write_bytes(note.replace(f"\n{SIZE}\n".encode(), b"\n707\n"))
    (found,) = findings(trail, "forged")
    assert found.startswith(f"{trail}/outside/forged: the signature of")
    (trail / "outside/forged").write_bytes(b"rubbish\n")
    (found,) = findings(trail, "forged")
    assert found.startswith(f"{trail}/outside/forged: something follows")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b'{"audit_checkpoint": 7}\nother\n', b'{"audit_checkpoint":' + b"[" * 100_000]
)
def test_a_file_without_a_checkpoint_protects_nothing(trail, content):
    (trail / "outside/empty").write_bytes(content)
    assert findings(trail, "empty") == [f"{trail}/outside/empty: holds no checkpoint"]


def change_segment(trail: Path, worker: str, segment: int, change: Callable[[list[bytes]], None]) -> Path:
    path = segment_path(Layout(trail / "audit").worker(worker), segment)
    lines = path.read_bytes().split(b"\n")
    change(lines)
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_changed_line_of_a_segment_is_named(trail):
    def change(lines):
        lines[10] = lines[10].replace(b"answered", b"denied  ")

    change_segment(trail, "w0", 1, change)
    (found,) = findings(trail)
    assert "differs from the same record at segments/w0/0000000001.jsonl byte" in found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: lines.pop(10), "record number 11 was removed from the segments"),
        (lambda lines: lines.insert(10, lines[4]), "has a record number 5 that is not in the tree where it belongs"),
        (lambda lines: lines.insert(10, b"rubbish"), "is not a record"),
        (lambda lines: lines.pop(0), "the first record of the segment was removed or changed"),
    ],
)
def test_a_manipulated_segment_is_named(trail, change, says):
    change_segment(trail, "w1", 1, change)
    found = findings(trail)
    assert says in found[0]
    assert found[0].startswith("segments/w1/0000000001.jsonl byte ")


def test_a_segment_that_is_cut_or_gone_is_named(trail):
    folder = Layout(trail / "audit").worker("w0")
    newest = segment_path(folder, segment_numbers(folder)[-1])
    newest.write_bytes(newest.read_bytes()[:-300])
    assert any("the segment is cut off" in finding for finding in findings(trail))
    path = segment_path(folder, 2)
    path.unlink()
    assert findings(trail)[0] == "segments/w0/0000000002.jsonl: is missing, though an older segment is there"


def test_old_segments_may_go(trail):
    segment_path(Layout(trail / "audit").worker("w0"), 1).unlink()
    assert findings(trail) == []


def test_a_record_that_never_reached_the_tree_shows_in_the_numbers(tmp_path):
    """Taken out of a segment before it was merged: neither tree nor segment has it, but its number is missing."""
    root = tmp_path / "audit"
    journal = Journal(root, Source("replica-1", "w0"))
    journal.append([decision(i) for i in range(10)])
    journal.close()

    def change(lines):
        del lines[5]

    change_segment(tmp_path, "w0", 1, change)
    sequencer = Sequencer(root, SIGNER)
    sequencer.merge()
    sequencer.close()
    report = verify(root, KEYS)
    assert str(report.findings[0]) == (
        "record 5: worker w0 goes from its record number 5 to 7: 6 is missing from the log"
    )


def test_findings_are_bounded(trail):
    def change(entries, _at):
        entries[:] = [entry.replace(b"answered", b"denied  ") for entry in entries]

    for index in (0, 300, 600):
        change_entries(trail / "audit", index, change)
    assert len(findings(trail)) == MAX_FINDINGS


def test_an_empty_log_holds(tmp_path):
    Sequencer(tmp_path, SIGNER).close()
    report = verify(tmp_path, KEYS)
    assert report.ok
    assert report.records == 0


def test_progress_is_told(trail):
    heard: list[tuple[int, int]] = []
    verify(trail / "audit", KEYS, progress=lambda records, size: heard.append((records, size)))
    assert heard == [(256, SIZE)]


def test_the_copy_is_complete(original):
    for level, index, width in tiles_of(SIZE):
        assert (original / "audit/log" / f"tile/{level}/{index:03d}{'' if width == 256 else f'.p/{width}'}").is_file()
    assert leaf_hash(all_entries(original / "audit")[0]) == (original / "audit/log/tile/0/000").read_bytes()[:32]
