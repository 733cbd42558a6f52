"""Reads a whole audit trail at file speed and finds what was changed, removed, reordered, inserted or cut off.

Three accounts of the same records are held against each other: the entry bundles, the tree of hashes over them, and the
workers' segments. What ties them to the past are signed checkpoints: the log's own, and those that were kept elsewhere,
which whoever owns the host could not rewrite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from privyseal.transparency.checkpoint import VerifierKey, cosigned_by, open_checkpoint, split_notes
from privyseal.transparency.errors import AuditError, NoteError
from privyseal.transparency.merkle import EMPTY_ROOT, HASH_BYTES, edge_root, root_of
from privyseal_service.audit.errors import LogIntegrityError, NotInLogError
from privyseal_service.audit.layout import (
    Layout,
)
from privyseal_service.audit.tiles import ENTRIES, TILE_WIDTH, TileReader, split_hashes, tile_path, tile_width
from privyseal_service.audit.verify_report import MAX_FINDINGS, Anchor, Report
from privyseal_service.audit.verify_segments import Workers

CHECKPOINT_PLACE = "log/checkpoint"


def verify(
    root: Path,
    keys: Sequence[VerifierKey],
    *,
    outside: Sequence[Path] = (),
    witnesses: Sequence[VerifierKey] = (),
    progress: Callable[[int, int], None] = lambda _records, _size: None,
) -> Report:
    """Verify the audit trail in the folder `root`. `keys` are the log's public keys, known from elsewhere.

    `outside` are files of checkpoints that were kept elsewhere: one or more notes, or lines of JSON as `StreamSink`
    writes them. With `witnesses`, one at least must have cosigned one of them; a note reports when the log has grown
    since. `progress` is called from time to time with the number of records that were read, and of all. Raises OSError
    for a file that cannot be read; all else is in the report.
    It may run while the service does: what is merged meanwhile is left for the next time.
    """
    report = Report()
    layout = Layout(root)
    anchors = _anchors(report, layout, keys, outside, witnesses)
    report.anchors = len(anchors)
    if report.checkpoint is None and not anchors:
        return report
    size = report.checkpoint.size if report.checkpoint is not None else max(a.checkpoint.size for a in anchors)
    for anchor in anchors:
        if anchor.checkpoint.size > size:
            report.find(
                f"record {size}",
                f"the log ends here, but {anchor.place} is signed for {anchor.checkpoint.size}: the end was cut off",
            )
    walk = _Walk(report, layout, size, [anchor for anchor in anchors if anchor.checkpoint.size <= size])
    walk.run(progress)
    return report


def _anchors(
    report: Report,
    layout: Layout,
    keys: Sequence[VerifierKey],
    outside: Sequence[Path],
    witnesses: Sequence[VerifierKey],
) -> list[Anchor]:
    """All checkpoints that count, by size. What does not count is a finding."""
    anchors = []
    try:
        report.checkpoint = open_checkpoint((layout.log / "checkpoint").read_bytes(), keys)
        anchors.append(Anchor(CHECKPOINT_PLACE, report.checkpoint))
    except FileNotFoundError:
        report.find(CHECKPOINT_PLACE, "is missing")
    except NoteError as error:
        report.find(CHECKPOINT_PLACE, str(error))
    witnessed: list[int] = []
    for path in outside:
        for place, note in _read_outside(report, path):
            if (anchor := _open(report, place, note, keys)) is not None:
                anchors.append(anchor)
                if _is_cosigned(report, place, note, witnesses):
                    witnessed.append(anchor.checkpoint.size)
    if witnesses:
        _tell_of_witnesses(report, witnessed)
    anchors.sort(key=lambda anchor: anchor.checkpoint.size)
    for old, new in pairwise(anchors):
        if old.checkpoint.size == new.checkpoint.size and old.checkpoint.root != new.checkpoint.root:
            report.find(
                f"records 0 to {old.checkpoint.size}",
                f"{old.place} and {new.place} are signed for the same number of records with different roots:"
                " the log was rewritten, or shows two faces",
            )
    return anchors


def _open(report: Report, place: str, note: bytes, keys: Sequence[VerifierKey]) -> Anchor | None:
    try:
        return Anchor(place, open_checkpoint(note, keys))
    except NoteError as error:
        report.find(place, str(error))
        return None


def _is_cosigned(report: Report, place: str, note: bytes, witnesses: Sequence[VerifierKey]) -> bool:
    try:
        return bool(cosigned_by(note, witnesses))
    except NoteError as error:
        report.find(place, str(error))
        return False


def _tell_of_witnesses(report: Report, witnessed: Sequence[int]) -> None:
    """What the sizes of cosigned checkpoints mean."""
    if not witnessed:
        report.find("checkpoints", "none that was given is cosigned by a witness that was named")
    elif report.checkpoint is not None and max(witnessed) < report.checkpoint.size:
        report.notes.append(f"a witness has seen the first {max(witnessed)} records, and none that was given has more")


def _read_outside(report: Report, path: Path) -> list[tuple[str, bytes]]:
    """The notes in a file, each with its place. A file without any is a finding: it protects nothing."""
    data = path.read_bytes()
    try:
        notes = _notes_in_lines(data) if b'"audit_checkpoint"' in data else list(enumerate(split_notes(data), 1))
    except NoteError as error:
        report.find(str(path), str(error))
        return []
    if not notes:
        report.find(str(path), "holds no checkpoint")
    return [(str(path) if len(notes) == 1 else f"{path} number {number}", note) for number, note in notes]


def _notes_in_lines(data: bytes) -> list[tuple[int, bytes]]:
    """The notes in lines of JSON, with the numbers of the lines. A collected log has other lines too."""
    notes = []
    for number, line in enumerate(data.splitlines(), 1):
        note = _note_in(line)
        if note is not None:
            notes.append((number, note))
    return notes


def _note_in(line: bytes) -> bytes | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    note = body.get("audit_checkpoint") if isinstance(body, dict) else None
    return note.encode(errors="replace") if isinstance(note, str) else None


class _Walk:
    """One pass over the first `size` records."""

    def __init__(self, report: Report, layout: Layout, size: int, anchors: list[Anchor]) -> None:
        self._report = report
        self._tiles = TileReader(layout.log)
        self._size = size
        self._anchors = anchors
        self._rows: list[list[bytes]] = [[]]  # of the levels above the leaves: what no larger subtree covers
        self._workers = Workers(report, layout)
        self._last_good = 0

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Read all, bundle by bundle."""
        for bundle in range((self._size + TILE_WIDTH - 1) // TILE_WIDTH):
            if len(self._report.findings) >= MAX_FINDINGS:
                return
            width = tile_width(0, bundle, self._size)
            entries = self._entries(bundle, width)
            if entries is None:
                self._report.notes.append(f"records from {bundle * TILE_WIDTH} on were not read")
                return
            leaves = [sha256(b"\x00" + entry).digest() for entry in entries]
            leaves = self._compare_leaves(bundle, width, leaves)
            self._compare_roots(bundle * TILE_WIDTH, leaves)
            self._workers.compare(bundle * TILE_WIDTH, entries)
            if width == TILE_WIDTH:
                self._carry(bundle, root_of(leaves))
            self._report.records += len(entries)
            self._report.size_bytes += sum(map(len, entries))
            if bundle % 64 == 0:
                progress(self._report.records, self._size)
        self._compare_roots(self._size, [])
        self._workers.finish()

    def _entries(self, bundle: int, width: int) -> list[bytes] | None:
        first = bundle * TILE_WIDTH
        try:
            return self._tiles.entries(bundle, width)
        except (LogIntegrityError, NotInLogError) as error:
            self._report.find(f"records {first} to {first + width - 1}", f"cannot be read: {error}")
            return None

    def _compare_leaves(self, bundle: int, width: int, leaves: list[bytes]) -> list[bytes]:
        """The entries against the tile of their hashes. Gives the hashes to go on with: the signed ones where it can
        be told, so that one bad place is one finding."""
        try:
            expected = self._tiles.tile(0, bundle, width)
        except AuditError as error:
            self._report.find(f"record {bundle * TILE_WIDTH}", f"its tile cannot be read: {error}")
            return leaves
        if b"".join(leaves) == expected:
            return leaves
        hashes = split_hashes(expected)
        at = next(i for i, (leaf, wanted) in enumerate(zip(leaves, hashes, strict=True)) if leaf != wanted)
        index = bundle * TILE_WIDTH + at
        if self._is_signed(bundle, hashes):
            self._report.find(self._place(index), _difference(leaves, hashes, at))
            return hashes
        if self._is_signed(bundle, leaves):
            self._report.find(f"record {index}", f"its hash in log/{tile_path(0, bundle, width)} was changed")
        else:
            self._report.find(self._place(index), "it and its hash in the tile over it differ, and neither is signed")
        return leaves

    def _place(self, index: int) -> str:
        bundle, at = divmod(index, TILE_WIDTH)
        width = tile_width(0, bundle, self._size)
        return f"record {index} (log/{tile_path(ENTRIES, bundle, width)}, entry {at})"

    def _is_signed(self, bundle: int, leaves: list[bytes]) -> bool:
        """Whether the level above, or a checkpoint, vouches for the hashes of a bundle."""
        if len(leaves) == TILE_WIDTH:
            try:
                index, at = divmod(bundle, TILE_WIDTH)
                above = self._tiles.tile(1, index, tile_width(1, index, self._size))
            except AuditError:
                return False
            return above[at * HASH_BYTES : (at + 1) * HASH_BYTES] == root_of(leaves)
        return any(
            anchor.checkpoint.size == self._size and self._root(leaves) == anchor.checkpoint.root
            for anchor in self._anchors
        )

    def _root(self, leaves: Sequence[bytes]) -> bytes:
        """The root with the leaves that follow the full bundles so far."""
        return edge_root([leaves, *self._rows])

    def _compare_roots(self, first: int, leaves: list[bytes]) -> None:
        """The tree so far against each checkpoint whose size falls among these leaves."""
        while self._anchors and self._anchors[0].checkpoint.size <= first + len(leaves):
            anchor = self._anchors[0]
            size = anchor.checkpoint.size
            self._anchors.pop(0)
            root = self._root(leaves[: size - first]) if size else EMPTY_ROOT
            if root == anchor.checkpoint.root:
                self._last_good = size
            else:
                self._report.find(
                    f"records {self._last_good} to {size - 1}",
                    f"do not lead to the root that {anchor.place} is signed for: one of them was changed, removed or"
                    " inserted, with the hashes over it",
                )

    def _carry(self, bundle: int, root: bytes) -> None:
        """Add a full bundle's root to the level above, and so on; each hash is compared with its tile."""
        level, index, computed = 1, bundle, root
        while True:
            self._compare_hash(level, index, computed)
            row = self._rows[level - 1]
            row.append(computed)
            if len(row) < TILE_WIDTH:
                return
            computed = root_of(row)
            row.clear()
            level, index = level + 1, index // TILE_WIDTH
            if level > len(self._rows):
                self._rows.append([])

    def _compare_hash(self, level: int, index: int, computed: bytes) -> None:
        """A hash above the leaves, in its tile, against what is under it."""
        tile, at = divmod(index, TILE_WIDTH)
        width = tile_width(level, tile, self._size)
        name = f"log/{tile_path(level, tile, width)}"
        first, last = index << (8 * level), ((index + 1) << (8 * level)) - 1
        try:
            stored = split_hashes(self._tiles.tile(level, tile, width))[at]
        except AuditError as error:
            self._report.find(name, str(error))
            return
        if stored != computed:
            self._report.find(f"records {first} to {last}", f"do not lead to the hash that {name} has of them")


def _difference(leaves: list[bytes], signed: list[bytes], at: int) -> str:
    """What happened at the first place where a bundle's hashes differ from the signed ones."""
    leaf, rest = leaves[at], leaves[at + 1 :]
    if rest[:1] == signed[at : at + 1] and signed[at + 1 : at + 2] == [leaf]:
        return "was exchanged with the record after it"
    if signed[at] in rest[:1]:
        return "was inserted: the record that belongs here follows it"
    if signed[at + 1 : at + 2] == [leaf]:
        return "was removed: the record after it stands here"
    if signed[at] in rest or leaf in signed:
        return "is not the one that was signed here: records were reordered"
    return "was changed: it is not the one that was signed"
