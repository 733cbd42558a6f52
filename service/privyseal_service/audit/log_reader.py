"""Answers questions about the log from its files: any worker can, beside the sequencer that writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from privyseal.transparency.checkpoint import Checkpoint, Note
from privyseal.transparency.merkle import (
    HASH_BYTES,
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_inclusion,
)
from privyseal_service.audit.errors import LogIntegrityError, NotInLogError
from privyseal_service.audit.layout import Layout
from privyseal_service.audit.tiles import TILE_WIDTH, TileReader, tile_width

NEWEST_ENTRIES = 1 << 16
"""How far back it takes next to nothing: a reader keeps these hashes in memory."""
SEARCHED_ENTRIES = 1_000_000
"""How far back a record is looked for only by its leaf hash: some 0.1 s. An older one is asked for by its index."""


@dataclass(frozen=True)
class Inclusion:
    """A record's place in the tree of a checkpoint, and the proof of it.

    `checkpoint` is the signed note, `proof` hashes of 32 bytes from the leaf's sibling to the root's child (RFC 6962,
    section 2.1.1), `record` the line without its newline.
    """

    index: int
    record: bytes
    proof: tuple[bytes, ...]
    checkpoint: bytes


class OlderError(NotInLogError):
    """It is not among the newest records, and there are older ones that may be looked at."""


class LogReader:
    """Reads one replica's log. Blocking; safe for many threads.

    Raises NotInLogError for what is not there (yet), LogIntegrityError when the files contradict each other, NoteError
    for a malformed checkpoint, OSError. It does not check the checkpoint's signature: who asks does.
    """

    def __init__(self, root: Path) -> None:
        self._path = Layout(root).log / "checkpoint"
        self._tiles = TileReader(Layout(root).log)

    def checkpoint(self) -> tuple[bytes, Checkpoint]:
        """The newest checkpoint: the signed note, and its content."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            raise NotInLogError("there is no checkpoint yet") from None
        return data, Checkpoint.parse(Note.parse(data).text)

    def inclusion(
        self, *, index: int | None = None, leaf: bytes | None = None, searched: int | None = None
    ) -> Inclusion:
        """Where a record, named by its index or its leaf hash, is in the tree of the newest checkpoint, with proof. A
        leaf hash is looked for among so many of the newest entries; left out, SEARCHED_ENTRIES. Raises OlderError where
        there are others."""
        note, checkpoint = self.checkpoint()
        if leaf is not None:
            searched = min(searched or SEARCHED_ENTRIES, SEARCHED_ENTRIES)
            index = self._find(leaf, checkpoint.size, searched) if len(leaf) == HASH_BYTES else None
        if index is None or not 0 <= index < checkpoint.size:
            raise NotInLogError(f"the log has {checkpoint.size} records now")
        bundle, within = divmod(index, TILE_WIDTH)
        record = self._tiles.entries(bundle, tile_width(0, bundle, checkpoint.size))[within]
        proof = inclusion_proof(index, checkpoint.size, self._tiles.node(checkpoint.size))
        try:
            verify_inclusion(leaf_hash(record), index, checkpoint.size, proof, checkpoint.root)
        except ProofError:
            raise LogIntegrityError(
                f"record {index}", "does not lead to the root of the log's own checkpoint"
            ) from None
        return Inclusion(index, record, tuple(proof), note)

    def _find(self, leaf: bytes, size: int, searched: int) -> int:
        """The index of a leaf hash, looked for from the newest tile backwards."""
        last = (size - 1) // TILE_WIDTH
        first = max(0, (size - searched) // TILE_WIDTH)
        for tile in range(last, first - 1, -1):
            hashes = self._tiles.tile(0, tile, tile_width(0, tile, size))
            at = hashes.find(leaf)
            while at >= 0 and at % HASH_BYTES:
                at = hashes.find(leaf, at + 1)
            if at >= 0:
                return tile * TILE_WIDTH + at // HASH_BYTES
        kind = OlderError if first and searched < SEARCHED_ENTRIES else NotInLogError
        raise kind("no such record among the newest in the tree; one that was just written is there within a second")

    def consistency(self, old_size: int, size: int) -> list[bytes]:
        """The proof that the tree of `size` entries begins with that of `old_size` (RFC 6962, section 2.1.2)."""
        _, checkpoint = self.checkpoint()
        if not 0 <= old_size <= size <= checkpoint.size:
            raise NotInLogError(f"the log has {checkpoint.size} records now; it cannot prove {old_size} in {size}")
        return consistency_proof(old_size, size, self._tiles.node(size))

    def root(self, size: int) -> bytes:
        """The root of the tree of the first `size` entries, which the newest checkpoint must cover."""
        _, checkpoint = self.checkpoint()
        if not 0 <= size <= checkpoint.size:
            raise NotInLogError(f"the log has {checkpoint.size} records now")
        return tree_root(size, self._tiles.node(size))

    def records(
        self, start: int, limit: int, wanted: Callable[[bytes], bool] = lambda _record: True
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Up to `limit` wanted records from index `start` on, each with its index, and the index to go on from.

        It looks at no more than 100 times `limit` records, so the list may be short of the limit before the end. Where
        the returned index is the checkpoint's size, there are no more now.
        """
        _, checkpoint = self.checkpoint()
        end = min(checkpoint.size, start + 100 * limit)
        found = []
        for index, record in self._entries(start, end, checkpoint.size):
            if wanted(record):
                found.append((index, record))
                if len(found) == limit:
                    return found, index + 1
        return found, max(start, end)

    def _entries(self, start: int, end: int, size: int) -> Iterator[tuple[int, bytes]]:
        index = start
        while index < end:
            bundle, within = divmod(index, TILE_WIDTH)
            for entry in self._tiles.entries(bundle, tile_width(0, bundle, size))[within : within + end - index]:
                yield index, entry
                index += 1
