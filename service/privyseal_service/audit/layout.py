"""Where the audit trail's files are, what a worker's segments look like, and how they are read.

DIR/segments/WORKER/0000000001.jsonl    records, one line each; the newest is being written
DIR/segments/WORKER/synced              how much of the newest segment is on disk
DIR/segments/WORKER/lock                held by the worker that writes
DIR/sequencer/                          the sequencer's state and lock
DIR/log/checkpoint, DIR/log/tile/…      the tree, in the layout of C2SP tlog-tiles
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from privyseal_service.audit.record import HEAD, MAX_LINE_BYTES, EndReason, SegmentEnd

SEGMENT_SUFFIX = ".jsonl"
_SEGMENT_NAME = re.compile(r"[0-9]{10}\.jsonl")
_MARKER = struct.Struct(">8sQQI")
_MARKER_MAGIC = b"psaudit1"


@dataclass(frozen=True)
class Layout:
    """The folders of one replica's audit trail."""

    root: Path

    @property
    def segments(self) -> Path:
        """A folder a worker."""
        return self.root / "segments"

    @property
    def sequencer(self) -> Path:
        """What the sequencer needs to go on after a stop."""
        return self.root / "sequencer"

    @property
    def log(self) -> Path:
        """The published tree: what a C2SP tlog-tiles prefix serves."""
        return self.root / "log"

    def worker(self, name: str) -> Path:
        """The folder of one worker's segments."""
        return self.segments / name

    def workers(self) -> list[str]:
        """The workers that ever wrote, sorted."""
        if not self.segments.is_dir():
            return []
        return sorted(entry.name for entry in self.segments.iterdir() if entry.is_dir())


def segment_path(folder: Path, number: int) -> Path:
    """The file of a worker's segment."""
    return folder / f"{number:010d}{SEGMENT_SUFFIX}"


def segment_numbers(folder: Path) -> list[int]:
    """The segments in a worker's folder, sorted."""
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else iter(())
    return sorted(int(name.partition(".")[0]) for name in names if _SEGMENT_NAME.fullmatch(name))


def head_of(line: bytes) -> re.Match[bytes] | None:
    """The head of a line (groups n, time without its Z, replica, worker, kind) if the line has the form of a record. A
    torn or overwritten one has not."""
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"}") or b"\0" in line:
        return None
    return HEAD.match(line)


def timed_lines(data: bytes) -> list[tuple[bytes, bytes]]:
    """The times, without their Z, and lines of all in `data` that has the form of a record. As `head_of`, which says
    what that is, for many lines at once."""
    lines = data.split(b"\n")
    if b"\0" in data:
        lines = [line for line in lines if b"\0" not in line]
    match = HEAD.match
    return [
        (head["time"], line)
        for line in lines
        if len(line) <= MAX_LINE_BYTES and line.endswith(b"}") and (head := match(line)) is not None
    ]


def read_fresh(path: Path) -> bytes:
    """A file's bytes as the device has them: cached pages that are not waiting to be written are dropped first, since
    after a failed sync they may differ from what is on the device. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_settled(path: Path) -> bytes:
    """The bytes of a segment whose writer has ended, as they will stay. What it left unsynced is synced first, so that
    a crash of the host cannot take back what is counted from now on. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # What cannot be synced is not on the device, and so not in what is read next.
        with suppress(OSError):
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return read_fresh(path)


def ends_told_by(first_line: bytes) -> tuple[SegmentEnd, ...] | None:
    """What the first line of a segment states of those before it; None when it is not a whole segment record."""
    head = HEAD.match(first_line)
    if head is None or head["kind"] != b"segment":
        return None
    try:
        return tuple(SegmentEnd.from_json(end) for end in orjson.loads(first_line)["ended"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_first_line(path: Path) -> bytes:
    """The first line of a segment without its newline; empty when there is none. Raises OSError."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES + 1)
    return line[:-1] if line.endswith(b"\n") else b""


def end_of_records(data: bytes) -> int:
    """Where the last complete record of a segment ends, newline included; 0 when there is none. It looks from the end,
    so that a long segment costs no more than a short one."""
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if head_of(data[start : end - 1]) is not None:
            return end
        end = start
    return 0


def survey(segment: int, data: bytes) -> tuple[SegmentEnd, int]:
    """How a segment ended whose worker left no word, and the number of its last record (0: it has none).

    All up to the last complete record counts, also what was never answered for: a record too many hurts nobody. What
    follows is set aside.
    """
    end = start = records = 0
    last: re.Match[bytes] | None = None
    for line in data.split(b"\n")[:-1]:  # what follows the last newline is no whole line
        start += len(line) + 1
        if (head := head_of(line)) is not None:
            end, records, last = start, records + 1, head
    tail = data[end:]
    stopped = last is not None and last["kind"] == b"stop"
    return SegmentEnd(
        segment=segment,
        reason=EndReason.STOPPED if stopped and not tail else EndReason.CRASHED,
        size_bytes=end,
        records=records,
        sha256=sha256(data[:end]).hexdigest(),
        set_aside_bytes=len(tail),
        set_aside_sha256=sha256(tail).hexdigest() if tail else "",
    ), int(last["n"]) if last is not None else 0


@dataclass(frozen=True)
class Synced:
    """How far a worker is: its newest segment, and how many bytes of it are on disk."""

    segment: int
    size_bytes: int


def pack_synced(synced: Synced) -> bytes:
    """The content of a worker's `synced` file, 28 bytes. It is never synced itself: after a crash it may be behind, and
    then the segments are surveyed."""
    body = _MARKER.pack(_MARKER_MAGIC, synced.segment, synced.size_bytes, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "big")


def read_synced(folder: Path) -> Synced | None:
    """The content of the worker's `synced` file; None when there is none or it was caught while being written."""
    try:
        data = (folder / "synced").read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _MARKER.size:
        return None
    magic, segment, size_bytes, check = _MARKER.unpack(data)
    if magic != _MARKER_MAGIC or check != zlib.crc32(data[:-4]):
        return None
    return Synced(segment, size_bytes)
