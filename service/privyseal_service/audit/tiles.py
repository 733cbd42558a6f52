"""The tree as files, in the layout of C2SP tlog-tiles: how it grows, and how it is read back.

A tile holds up to 256 hashes; hash i of tile n at level l is the root over the entries
[(256 n + i) 256**l, (256 n + i + 1) 256**l). An entry bundle holds the up to 256 entries under a tile of level 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from privyseal.transparency.merkle import HASH_BYTES, Node, edge_root, leaf_hash, root_of
from privyseal_service.audit.errors import LogIntegrityError, NotInLogError

TILE_WIDTH = 256
_HEIGHT = 8
ENTRIES = "entries"
_MAX_ENTRY_BYTES = 65_535
_MAX_TILE_BYTES = TILE_WIDTH * HASH_BYTES
_MAX_BUNDLE_BYTES = TILE_WIDTH * (2 + _MAX_ENTRY_BYTES)


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """Where a tile (or, for `ENTRIES`, a bundle) is below the log's prefix; 1234067 becomes x001/x234/067."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.append(f"x{index % 1000:03d}")
    suffix = f".p/{width}" if width < TILE_WIDTH else ""
    return f"tile/{level}/" + "/".join(reversed(parts)) + suffix


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes a tile has in a tree of `size` entries: 0 when it is not there yet."""
    return min(TILE_WIDTH, max(0, (size >> (_HEIGHT * level)) - index * TILE_WIDTH))


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Level, index and width of each tile of a tree, level by level."""
    level = 0
    while hashes := size >> (_HEIGHT * level):
        for index in range((hashes + TILE_WIDTH - 1) // TILE_WIDTH):
            yield level, index, min(TILE_WIDTH, hashes - index * TILE_WIDTH)
        level += 1


def last_full_tiles(size: int) -> Iterator[str]:
    """The paths of the last full tile of each level, and of the last full bundle, in a tree of `size` entries."""
    level = 0
    while full := size >> (_HEIGHT * (level + 1)):
        yield tile_path(level, full - 1)
        if level == 0:
            yield tile_path(ENTRIES, full - 1)
        level += 1


def pack_entries(entries: list[bytes]) -> bytes:
    """An entry bundle: each entry after its length in two bytes."""
    return b"".join([part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry)])


def unpack_entries(data: bytes) -> list[bytes]:
    """The inverse of `pack_entries`. Raises ValueError when the lengths do not add up."""
    entries = []
    start, total = 0, len(data)
    while start < total:
        end = start + 2 + int.from_bytes(data[start : start + 2], "big")
        if end > total:
            raise ValueError("an entry is cut off")
        entries.append(data[start + 2 : end])
        start = end
    return entries


def split_hashes(data: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


class GrowingTree:
    """The right edge of a tree, to which entries are added in memory; what must be written is asked for."""

    def __init__(self) -> None:
        self.size = 0
        self._levels: list[list[bytes]] = [[]]
        self._bundle: list[bytes] = []
        self._full: list[tuple[str, bytes]] = []

    def extend(self, entries: Sequence[bytes]) -> None:
        """Add entries of 1 to 65,535 bytes, or none of them: raises ValueError for one of another length."""
        lengths = set(map(len, entries))
        if not all(0 < length <= _MAX_ENTRY_BYTES for length in lengths):
            raise ValueError(f"an entry has {min(lengths)} or {max(lengths)} bytes, not 1 to {_MAX_ENTRY_BYTES}")
        start = 0
        while start < len(entries):
            fitting = entries[start : start + TILE_WIDTH - len(self._bundle)]
            self._bundle += fitting
            self._levels[0] += map(leaf_hash, fitting)
            self.size += len(fitting)
            start += len(fitting)
            if len(self._bundle) == TILE_WIDTH:
                self._full.append((tile_path(ENTRIES, self.size // TILE_WIDTH - 1), pack_entries(self._bundle)))
                self._bundle = []
                self._carry()

    def _carry(self) -> None:
        """Turn each full tile into one hash of the level above."""
        level = 0
        while len(self._levels[level]) == TILE_WIDTH:
            index = (self.size >> (_HEIGHT * (level + 1))) - 1
            hashes = self._levels[level]
            self._full.append((tile_path(level, index), b"".join(hashes)))
            self._levels[level] = []
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(root_of(hashes))

    def root(self) -> bytes:
        """The root of the whole tree, 32 bytes."""
        return edge_root(self._levels)

    def take_full(self) -> list[tuple[str, bytes]]:
        """Paths and contents of the full tiles and bundles that came about since the last call."""
        full, self._full = self._full, []
        return full

    def partial(self) -> list[tuple[str, bytes]]:
        """Paths and contents of the partial tiles and the partial bundle that a checkpoint of this size needs."""
        files = []
        if self._bundle:
            files.append((tile_path(ENTRIES, self.size // TILE_WIDTH, len(self._bundle)), pack_entries(self._bundle)))
        for level, hashes in enumerate(self._levels):
            if hashes:
                index = self.size >> (_HEIGHT * (level + 1))
                files.append((tile_path(level, index, len(hashes)), b"".join(hashes)))
        return files

    @staticmethod
    def load(reader: TileReader, size: int) -> GrowingTree:
        """The right edge of the tree of `size` entries that is in the files. Raises LogIntegrityError and OSError."""
        tree = GrowingTree()
        tree.size = size
        tree._levels = []
        level = 0
        while level == 0 or size >> (_HEIGHT * level):
            width = (size >> (_HEIGHT * level)) % TILE_WIDTH
            index = size >> (_HEIGHT * (level + 1))
            tree._levels.append(split_hashes(reader.tile(level, index, width)) if width else [])
            level += 1
        if width := size % TILE_WIDTH:
            tree._bundle = reader.entries(size // TILE_WIDTH, width)
        return tree


class TileReader:
    """Reads tiles and bundles below a folder; full tiles, which never change, are kept in memory up to some number.

    Safe for many threads. Raises NotInLogError for a tile that is not there, LogIntegrityError for one of a wrong size.
    """

    def __init__(self, folder: Path, cached_tiles: int = 512) -> None:
        self.folder = folder
        self._cached_tiles = cached_tiles
        self._cache: dict[str, bytes] = {}

    def read(self, level: int | str, index: int, width: int) -> tuple[str, bytes]:
        """The path and bytes of a tile or bundle that has at least `width` hashes or entries: the partial one of just
        that width or, once it is full, the full one."""
        full = tile_path(level, index)
        if (data := self._cache.get(full)) is not None:
            return full, data
        paths = [full] if width == TILE_WIDTH else [tile_path(level, index, width), full]
        most_bytes = _MAX_BUNDLE_BYTES if level == ENTRIES else _MAX_TILE_BYTES
        for path in paths:
            try:
                with (self.folder / path).open("rb") as file:
                    data = file.read(most_bytes + 1)
            except FileNotFoundError:
                continue
            if len(data) > most_bytes:
                raise LogIntegrityError(f"log/{path}", f"has more than the {most_bytes} bytes that a full one can have")
            if path == full and level != ENTRIES:
                self._keep(full, data)
            return path, data
        raise NotInLogError(f"log/{paths[0]} is missing")

    def _keep(self, path: str, data: bytes) -> None:
        if len(self._cache) >= self._cached_tiles:
            self._cache.clear()
        self._cache[path] = data

    def tile(self, level: int, index: int, width: int) -> bytes:
        """The first `width` hashes of a tile."""
        path, data = self.read(level, index, width)
        if len(data) % HASH_BYTES or len(data) < width * HASH_BYTES:
            raise LogIntegrityError(f"log/{path}", f"has {len(data)} bytes, too few for {width} hashes")
        return data[: width * HASH_BYTES]

    def entries(self, index: int, width: int) -> list[bytes]:
        """The first `width` entries of a bundle."""
        path, data = self.read(ENTRIES, index, width)
        try:
            entries = unpack_entries(data)
        except ValueError as error:
            raise LogIntegrityError(f"log/{path}", str(error)) from None
        if len(entries) < width:
            raise LogIntegrityError(f"log/{path}", f"has {len(entries)} entries, not {width}")
        return entries[:width]

    def node(self, size: int) -> Node:
        """The hashes of the complete subtrees of the tree of `size` entries, for `merkle`."""

        def node(level: int, index: int) -> bytes:
            tile_level, within = divmod(level, _HEIGHT)
            first = index << within
            tile, start = divmod(first, TILE_WIDTH)
            hashes = self.tile(tile_level, tile, tile_width(tile_level, tile, size))
            end = start + (1 << within)
            return root_of(split_hashes(hashes[start * HASH_BYTES : end * HASH_BYTES]))

        return node
