"""Verification of the workers' segments: each worker's chain of lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from privyseal_service.audit.layout import (
    Layout,
    end_of_records,
    ends_told_by,
    head_of,
    read_first_line,
    read_synced,
    segment_numbers,
    segment_path,
)
from privyseal_service.audit.record import MAX_LINE_BYTES, SegmentEnd
from privyseal_service.audit.verify_report import Report


class _SegmentLine(NamedTuple):
    """A line of a segment: the segment's place in the trail, where the line begins, its bytes without the newline."""

    segment: str
    offset: int
    data: bytes

    @property
    def place(self) -> str:
        return f"{self.segment} byte {self.offset}"

    @property
    def number(self) -> int | None:
        """The record's number; None when the line is not a record."""
        head = head_of(self.data)
        return int(head["n"]) if head is not None else None


@dataclass
class _Worker:
    """One worker's records, as the walk meets them: the last number, and the next line of its segments."""

    lines: Iterator[_SegmentLine]
    pending: _SegmentLine | None
    last: int = 0
    met: bool = False

    def advance(self) -> None:
        self.pending = next(self.lines, None)


class Workers:
    """Each worker's numbers must go up one by one, and its segments must hold the same lines as the tree."""

    def __init__(self, report: Report, layout: Layout) -> None:
        self._report = report
        self._layout = layout
        self._workers: dict[bytes, _Worker] = {}

    def compare(self, first: int, entries: list[bytes]) -> None:
        """Take a bundle's records, the first of which has the index `first`."""
        for index, entry in enumerate(entries, first):
            head = head_of(entry)
            if head is None:
                self._report.find(f"record {index}", "has not the form of a record")
                continue
            name, number = head["worker"], int(head["n"])
            worker = self._workers.get(name)
            if worker is None:
                worker = self._workers[name] = self._begin(name.decode())
            if number != worker.last + 1:
                self._report.find(f"record {index}", _gap(name.decode(), worker.last, number))
            worker.last = number
            pending = worker.pending
            if pending is None:
                continue
            if pending.data == entry:
                worker.met = True
                worker.advance()
            else:
                self._settle(worker, index, number)

    def _begin(self, name: str) -> _Worker:
        lines = _segment_lines(self._report, self._layout.worker(name), f"segments/{name}")
        return _Worker(lines, next(lines, None))

    def _settle(self, worker: _Worker, index: int, number: int) -> None:
        """A record of the tree of which the worker's next line is not the same: go on to the line of its number."""
        while (line := worker.pending) is not None:
            found = line.number
            if found is None:
                self._report.find(line.place, "is not a record: the segment was damaged or changed")
            elif found < number:
                self._report.find(line.place, f"has a record number {found} that is not in the tree where it belongs")
            elif found == number:
                self._report.find(f"record {index}", f"differs from the same record at {line.place}")
                worker.met = True
                worker.advance()
                return
            else:
                if worker.met:  # else the older segments are gone, as they may be once they are in the tree
                    self._report.find(line.place, f"record number {number} was removed from the segments")
                return
            worker.advance()

    def finish(self) -> None:
        """After the last record: what the segments have beyond the tree."""
        for name in self._layout.workers():
            worker = self._workers.get(name.encode()) or self._begin(name)
            while (line := worker.pending) is not None:
                found = line.number
                if found is None:
                    self._report.find(line.place, "is not a record: the segment was damaged or changed")
                elif worker.last and found != worker.last + 1:
                    self._report.find(line.place, _gap(name, worker.last, found))
                worker.last = found or worker.last
                self._report.unmerged += 1
                worker.advance()
        if self._report.unmerged:
            self._report.notes.append(
                f"{self._report.unmerged} records are in segments and not yet in the tree; the sequencer merges them"
                " within a second where it runs"
            )


def _gap(worker: str, last: int, number: int) -> str:
    if number <= last:
        return f"worker {worker} has its number {number} here after {last}: repeated or out of order"
    missing = f"{last + 1}" if number == last + 2 else f"{last + 1} to {number - 1}"
    return f"worker {worker} goes from its record number {last} to {number}: {missing} is missing from the log"


def _segment_lines(report: Report, folder: Path, name: str) -> Iterator[_SegmentLine]:
    """The lines of a worker's segments, as far as they count. That segments are whole is checked on the way."""
    numbers = segment_numbers(folder)
    told: dict[int, SegmentEnd] = {}
    for number in numbers:
        told |= {end.segment: end for end in ends_told_by(read_first_line(segment_path(folder, number))) or ()}
    for number, end in told.items():
        if end.size_bytes and number not in numbers and numbers[0] < number:
            report.find(f"{name}/{segment_path(folder, number).name}", "is missing, though an older segment is there")
    for number in numbers:
        path = segment_path(folder, number)
        place = f"{name}/{path.name}"
        try:
            size_bytes = told[number].size_bytes if number in told else end_of_records(path.read_bytes())
            with path.open("rb") as file:
                yield from _lines_of(report, file, place, size_bytes)
            beyond = path.stat().st_size - size_bytes
        except FileNotFoundError:
            continue  # the sequencer has just removed it, all of it being in the tree
        if beyond > 0:
            report.notes.append(f"{place}: {beyond} bytes after its last record are set aside, or just being written")
    synced = read_synced(folder)
    if synced is not None and synced.segment in numbers:
        path = segment_path(folder, synced.segment)
        if (size := path.stat().st_size) < synced.size_bytes:
            report.find(f"{name}/{path.name} byte {size}", f"the segment is cut off; it had {synced.size_bytes} bytes")


def _lines_of(report: Report, file: BinaryIO, place: str, size_bytes: int) -> Iterator[_SegmentLine]:
    """The lines of one segment up to its end."""
    offset = 0
    while offset < size_bytes:
        line = file.readline(min(size_bytes - offset, 2 * MAX_LINE_BYTES))
        if not line:
            report.find(f"{place} byte {offset}", f"the segment is cut off; it had {size_bytes} bytes")
            return
        if offset == 0 and ends_told_by(line[:-1]) is None:
            report.find(f"{place} byte 0", "the first record of the segment was removed or changed")
        yield _SegmentLine(place, offset, line[:-1])
        offset += len(line)
