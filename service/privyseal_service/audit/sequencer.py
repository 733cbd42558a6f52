"""One a replica: merges what all workers have synced into one tree, and signs its checkpoints.

The steps of a merge, each on disk before the next begins:
1. `sequencer/state.json` names the spans of segments that come next, and the tree that they will make;
2. the tiles and entry bundles of that tree are written;
3. `log/checkpoint`, signed, replaces the one before: from now on the merge counts.
After a stop at any point the next sequencer finds the state and the checkpoint, repeats 2 and 3 with the same spans, or
goes on. So no record comes twice or is lost, no full tile is ever written with other content, and no checkpoint is
signed that contradicts an earlier one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import orjson

from privyseal.transparency.checkpoint import Checkpoint, Signer, VerifierKey, open_checkpoint
from privyseal.transparency.errors import AuditError
from privyseal.transparency.merkle import EMPTY_ROOT
from privyseal_backends.file_lock import open_locked
from privyseal_service.audit.errors import LogIntegrityError, SequencerBusyError
from privyseal_service.audit.layout import Layout, segment_numbers, segment_path, timed_lines
from privyseal_service.audit.segment_cursor import Cursor, WorkerSegments
from privyseal_service.audit.tiles import GrowingTree, TileReader, last_full_tiles
from privyseal_service.system.files import Files, SystemFiles, make_folder, write_atomically

MERGE_INTERVAL_S = 0.5
"""From one merge's begin to the next one's. Each costs some ten syncs, whatever it merges."""

_LEAST_REST = 0.2
"""How much of the interval is rest where the disk is slow. A record waits for the merge under way, for the rest and for
its own merge: less than a second where a merge takes less than 0.45."""

_MERGE_BYTES = 16 << 20
_SMALLEST_SHARE_BYTES = 256 << 10
_RETRY_S = 1.0


@dataclass(frozen=True)
class Span:
    """Bytes [start, end) of a worker's segment."""

    worker: str
    segment: int
    start: int
    end: int


Cursors: TypeAlias = "dict[str, Cursor]"


@dataclass(frozen=True)
class _State:
    """What is in the tree (`size` entries, up to `cursors`), and the merge that comes or came next."""

    size: int
    root: bytes
    cursors: Cursors
    spans: tuple[Span, ...] = ()
    next_size: int = 0
    next_root: bytes = EMPTY_ROOT

    @property
    def next_cursors(self) -> Cursors:
        return self.cursors | {span.worker: Cursor(span.segment, span.end) for span in self.spans}

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "v": 1,
                "size": self.size,
                "root": self.root.hex(),
                "cursors": {name: [cursor.segment, cursor.offset] for name, cursor in self.cursors.items()},
                "spans": [[span.worker, span.segment, span.start, span.end] for span in self.spans],
                "next_size": self.next_size,
                "next_root": self.next_root.hex(),
            },
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )

    @staticmethod
    def from_json(data: bytes) -> _State:
        body = orjson.loads(data)
        if body["v"] != 1:
            raise ValueError("of another version")
        return _State(
            size=int(body["size"]),
            root=bytes.fromhex(body["root"]),
            cursors={str(name): Cursor(int(at[0]), int(at[1])) for name, at in body["cursors"].items()},
            spans=tuple(Span(str(s[0]), int(s[1]), int(s[2]), int(s[3])) for s in body["spans"]),
            next_size=int(body["next_size"]),
            next_root=bytes.fromhex(body["next_root"]),
        )


_NEW = _State(0, EMPTY_ROOT, {})


def merge_order(pieces: Iterable[tuple[str, list[tuple[bytes, bytes]]]]) -> list[bytes]:
    """The records of some workers, in order, in the order in which the tree takes them: by time, each worker's as they
    came, those of one time by the workers' names. It depends only on the pieces (worker, times and records)."""
    by_worker: dict[str, list[tuple[bytes, bytes]]] = {}
    for worker, records in pieces:
        by_worker.setdefault(worker, []).extend(records)
    timed: list[tuple[bytes, bytes]] = []
    for _, records in sorted(by_worker.items()):
        newest = b""
        for time_, record in records:
            # A clock that was set back must not put a worker's record before an earlier one of its own.
            newest = max(newest, time_)
            timed.append((newest, record))
    timed.sort(key=itemgetter(0))
    return [record for _, record in timed]


def rest_s(took_s: float, interval_s: float) -> float:
    """How long to rest, in seconds, after a merge that took so long."""
    return max(interval_s * _LEAST_REST, interval_s - took_s)


class Sequencer:
    """The one process a replica that grows the tree and holds the audit key. Use it from one thread at a time.

    Raises LogIntegrityError when the files contradict each other or the signed checkpoint, SequencerBusyError when
    another runs on the folder, OSError when the files cannot be used. `publish` gets each new checkpoint (a signed
    note) and must not block; `report` a sentence for the operator's log. `former_keys` are the log's public keys before
    this one. Segments that are wholly in the tree are removed once `keep_segments_s` seconds old; by default never.
    """

    def __init__(
        self,
        root: Path,
        signer: Signer,
        *,
        former_keys: Sequence[VerifierKey] = (),
        files: Files | None = None,
        publish: Callable[[bytes], None] = lambda _note: None,
        report: Callable[[str], None] = lambda _sentence: None,
        keep_segments_s: float | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._layout = Layout(root)
        self._signer = signer
        self._keys = [signer.verifier, *former_keys]
        self._files = files if files is not None else SystemFiles()
        self._publish = publish
        self._report = report
        self._keep_segments_s = keep_segments_s
        self._clock_s = clock_s
        self._reader = TileReader(self._layout.log)
        self._workers: dict[str, WorkerSegments] = {}
        self._tree: GrowingTree | None = None
        self._state = _NEW
        self._partial: set[str] = set()
        """The partial tiles of the last merge, safely there: one of a high level stays the same for many merges."""
        self.problem: str | None = None
        for folder in (self._layout.segments, self._layout.sequencer, self._layout.log):
            make_folder(self._files, folder)
        self._lock = open_locked(self._layout.sequencer / "lock")
        if self._lock is None:
            raise SequencerBusyError(f"another sequencer runs on {root}; there can be only one")
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back. Safe to call twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def run(self, stop: threading.Event, interval_s: float = MERGE_INTERVAL_S) -> None:
        """Merge every `interval_s` seconds until `stop` is set, then once more. Never raises for what the files or the
        disk do: it reports that (`problem`, `report`), and tries again from what is on disk."""
        next_s = interval_s
        while not stop.wait(next_s):
            began_s = time.monotonic()
            self._try_merge()
            next_s = _RETRY_S if self.problem is not None else rest_s(time.monotonic() - began_s, interval_s)
        self._try_merge()

    def _try_merge(self) -> None:
        try:
            if self._tree is None:
                self._load()
            while self.merge() >= _MERGE_BYTES // 2:
                pass
        except (AuditError, OSError) as error:
            self._stand_still(str(error))
            return
        except Exception as error:  # noqa: BLE001 - were the thread to end, nobody would hear that the tree does not grow
            self._stand_still(f"a fault of the program itself, {type(error).__name__}: {error}")
            return
        if self.problem is not None:
            self.problem = None
            self._report("the audit tree grows again")

    def _stand_still(self, problem: str) -> None:
        """Say why the tree does not grow, once; the next try begins from what is on disk."""
        self._tree = None
        if self.problem != problem:
            self.problem = problem
            self._report(f"the audit tree does not grow: {problem}")

    def merge(self) -> int:
        """Take in what the workers have synced, up to 16 MiB, and return how many bytes that was (0: nothing new).

        Raises LogIntegrityError and OSError; then call `reload` before the next.
        """
        spans = self._next_spans()
        if not spans:
            return 0
        state, tree = self._state, self._tree
        assert tree is not None  # `reload` comes before the next merge
        self._grow(tree, spans)
        self._state = _State(state.size, state.root, state.cursors, tuple(spans), tree.size, tree.root())
        self._write_state()
        self._finish(tree)
        return sum(span.end - span.start for span in spans)

    def reload(self) -> None:
        """Begin again from what is on disk."""
        self._load()

    def _load(self) -> None:
        """Find out how far the log is, and finish a merge that was not."""
        path = self._layout.log / "checkpoint"
        self._partial = set()
        state = self._read_state()
        if not path.exists():
            if state not in (None, _NEW) or (self._layout.log / "tile").exists():
                raise LogIntegrityError(
                    "log/checkpoint", "is missing, though there is a log; put it back from a backup"
                )
            self._begin_log()
            return
        checkpoint = open_checkpoint(path.read_bytes(), self._keys)
        if state is None:
            raise LogIntegrityError("sequencer/state.json", "is missing, though there is a log; restore it")
        if checkpoint.origin != self._signer.verifier.name:
            raise LogIntegrityError("log/checkpoint", f"is of {checkpoint.origin}; this key signs for another log")
        head = (checkpoint.size, checkpoint.root)
        if head == (state.next_size, state.next_root):
            state = _State(*head, state.next_cursors, (), *head)
        elif head != (state.size, state.root):
            raise LogIntegrityError(
                "sequencer/state.json", "does not belong to log/checkpoint; restore the two together"
            )
        self._state = state
        tree = GrowingTree.load(self._reader, state.size)
        if tree.root() != state.root:
            raise LogIntegrityError("log/tile", f"the tiles of {state.size} entries do not lead to the signed root")
        self._remove_partial(last_full_tiles(state.size))
        if state.spans:
            self._grow(tree, state.spans)
            if (tree.size, tree.root()) != (state.next_size, state.next_root):
                raise LogIntegrityError("segments", "changed between two tries of one merge")
            self._finish(tree)
        else:
            self._publish(path.read_bytes())
        self._tree = tree

    def _begin_log(self) -> None:
        """A new log: the empty tree, signed."""
        self._state = _NEW
        self._write_state()
        self._write_checkpoint(Checkpoint(self._signer.verifier.name, 0, EMPTY_ROOT))
        self._tree = GrowingTree()

    def _read_state(self) -> _State | None:
        path = self._layout.sequencer / "state.json"
        try:
            return _State.from_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise LogIntegrityError("sequencer/state.json", "is not what the sequencer wrote; restore it") from None

    def _write_state(self) -> None:
        write_atomically(self._layout.sequencer / "state.json", self._state.to_json(), self._files)
        self._files.sync_folder(self._layout.sequencer)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        note = self._signer.sign(checkpoint.text())
        write_atomically(self._layout.log / "checkpoint", note, self._files)
        self._files.sync_folder(self._layout.log)
        self._publish(note)

    def _next_spans(self) -> list[Span]:
        """What each worker has synced beyond its cursor, fairly shared when it is much."""
        names = self._layout.workers()
        share = max(_SMALLEST_SHARE_BYTES, _MERGE_BYTES // max(1, len(names)))
        spans: list[Span] = []
        for name in names:
            worker = self._workers.setdefault(name, WorkerSegments(self._layout.worker(name)))
            left = share
            for segment, start, end in worker.beyond(self._state.cursors.get(name, Cursor(0, 0))):
                if end - start > left:
                    # Not to the end of this segment: what is in the next one must wait.
                    spans.append(Span(name, segment, start, worker.line_boundary(segment, start, start + left, end)))
                    break
                spans.append(Span(name, segment, start, end))
                left -= end - start
                if left <= 0:
                    break
        return spans

    def _grow(self, tree: GrowingTree, spans: Iterable[Span]) -> None:
        """Add the records of some spans to the tree."""
        tree.extend(merge_order((span.worker, self._read(span)) for span in spans))

    def _read(self, span: Span) -> list[tuple[bytes, bytes]]:
        """The times and records of a span. What has not the form of a record cannot be an entry; it is reported."""
        path = segment_path(self._layout.worker(span.worker), span.segment)
        with path.open("rb") as file:
            # A worker may claim falsely that it has synced more than there is.
            start, end = (min(at, os.fstat(file.fileno()).st_size) for at in (span.start, span.end))
            file.seek(start)
            data = file.read(end - start)
        records = timed_lines(data)
        damaged = span.end - span.start - sum(len(line) + 1 for _, line in records)
        if damaged:
            self._report(f"{damaged} bytes of synced audit records are damaged in {path} after byte {span.start}")
        return records

    def _finish(self, tree: GrowingTree) -> None:
        """Write the tiles of the tree that the state names, then the checkpoint."""
        full, partial = tree.take_full(), tree.partial()
        wanted = [(path, data) for path, data in full + partial if path not in self._partial]
        for path, data in wanted:
            self._write_tile(path, data)
        for folder in {(self._layout.log / path).parent for path, _ in wanted}:
            self._files.sync_folder(folder)
        self._partial = {path for path, _ in partial}
        head = (self._state.next_size, self._state.next_root)
        self._write_checkpoint(Checkpoint(self._signer.verifier.name, *head))
        self._state = _State(*head, self._state.next_cursors, (), *head)
        self._remove_partial(path for path, _ in full)
        self._remove_segments()

    def _write_tile(self, name: str, data: bytes) -> None:
        """Write a tile or bundle once. One that is there must be the same: no tile ever changes."""
        path = self._layout.log / name
        if path.exists():
            if path.read_bytes() != data:
                raise LogIntegrityError(f"log/{name}", "is there already with other content")
            return
        make_folder(self._files, path.parent)
        write_atomically(path, data, self._files)

    def _remove_partial(self, full: Iterable[str]) -> None:
        """Remove the partial tiles of tiles that are now full."""
        for name in full:
            folder = self._layout.log / f"{name}.p"
            if folder.is_dir():
                for path in folder.iterdir():
                    self._files.remove(path)
                folder.rmdir()

    def _remove_segments(self) -> None:
        """Remove old segments that are wholly in the tree, never a worker's newest."""
        if self._keep_segments_s is None:
            return
        oldest_s = self._clock_s() - self._keep_segments_s
        for worker, cursor in self._state.cursors.items():
            folder = self._layout.worker(worker)
            for number in segment_numbers(folder)[:-1]:
                path = segment_path(folder, number)
                if number < cursor.segment and path.stat().st_mtime < oldest_s:
                    self._files.remove(path)
