"""How far a worker's segments may be taken into the tree.

That is what is synced while the worker lives, and all complete records once it is dead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privyseal_backends.file_lock import holding_lock
from privyseal_service.audit.layout import (
    Synced,
    end_of_records,
    ends_told_by,
    read_first_line,
    read_settled,
    read_synced,
    segment_numbers,
    segment_path,
)


@dataclass(frozen=True, order=True)
class Cursor:
    """A place in a worker's segments: all before it is in the tree."""

    segment: int
    offset: int


class WorkerSegments:
    """One worker's folder, as the sequencer sees it from merge to merge."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settled: tuple[int, int] | None = None

    def beyond(self, cursor: Cursor) -> list[tuple[int, int, int]]:
        """Segment, start and end of what counts beyond the cursor, in order. Raises OSError.

        While the worker's lock is held, that is what its `synced` file holds; otherwise the worker has ended and all
        complete records count.
        """
        synced = read_synced(self._folder)
        with holding_lock(self._folder / "lock") as is_dead:
            lengths = self._lengths_of_the_dead(cursor) if is_dead else self._lengths_of_the_living(cursor, synced)
            found = []
            for segment, length in lengths:
                start = cursor.offset if segment == cursor.segment else 0
                if length > start:
                    found.append((segment, start, length))
            self._settled = self._newest() if is_dead and not found else None
        return found

    def _newest(self) -> tuple[int, int] | None:
        """The newest segment and the size of its file."""
        numbers = segment_numbers(self._folder)
        return (numbers[-1], segment_path(self._folder, numbers[-1]).stat().st_size) if numbers else None

    def _lengths_of_the_living(self, cursor: Cursor, synced: Synced | None) -> list[tuple[int, int]]:
        if synced is None or Cursor(synced.segment, synced.size_bytes) <= cursor:
            return []
        numbers = [n for n in segment_numbers(self._folder) if cursor.segment <= n <= synced.segment]
        return [*self._lengths_of_the_ended(numbers[:-1], numbers), (synced.segment, synced.size_bytes)]

    def _lengths_of_the_dead(self, cursor: Cursor) -> list[tuple[int, int]]:
        # Reading it all again at every merge would be idle: nobody writes there.
        if self._settled is not None and self._settled == self._newest():
            return []
        numbers = [number for number in segment_numbers(self._folder) if number >= cursor.segment]
        return self._lengths_of_the_ended(numbers, numbers)

    def _lengths_of_the_ended(self, wanted: list[int], numbers: list[int]) -> list[tuple[int, int]]:
        """The length of each wanted segment, as a later one states it; else all complete records."""
        told: dict[int, int] = {}
        for number in numbers:
            ends = ends_told_by(read_first_line(segment_path(self._folder, number))) or ()
            told |= {end.segment: end.size_bytes for end in ends}
        lengths = []
        for number in wanted:
            if number not in told:
                told[number] = end_of_records(read_settled(segment_path(self._folder, number)))
            lengths.append((number, told[number]))
        return lengths

    def line_boundary(self, segment: int, start: int, middle: int, end: int) -> int:
        """The end of the last line that ends by `middle`, or `end` where there is none (a damaged stretch)."""
        with segment_path(self._folder, segment).open("rb") as file:
            file.seek(start)
            newline = file.read(middle - start).rfind(b"\n")
        return start + newline + 1 if newline >= 0 else end
