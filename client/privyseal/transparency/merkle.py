"""The Merkle tree of RFC 6962, section 2.1 (RFC 9162 has the same): hashes, roots, proofs and their checks. No I/O.

Everything that reads a tree takes a function `node(level, index)`: the hash of the complete subtree over the entries
[index * 2**level, (index + 1) * 2**level). A hash is 32 bytes of SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import TypeAlias

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Node: TypeAlias = Callable[[int, int], bytes]


class ProofError(ValueError):
    """A proof that does not prove what it is held against."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry as a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes of subtrees of one size, of which only the last may be smaller."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        odd = row.pop() if len(row) % 2 else None
        row = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
        if odd is not None:
            row.append(odd)
    return row[0]


def edge_root(rows: Iterable[Sequence[bytes]]) -> bytes:
    """The root over rows of subtree hashes, the smallest subtrees first: in each row those that no larger one covers.
    A row's subtrees are 256 times as large as those of the row before."""
    below: list[bytes] = []
    for row in rows:
        hashes = [*row, *below]
        below = [root_of(hashes)] if hashes else []
    return below[0] if below else EMPTY_ROOT


def _largest_power_below(number: int) -> int:
    """The largest power of two smaller than `number`, which is at least 2."""
    return 1 << (number - 1).bit_length() - 1


def range_root(start: int, end: int, node: Node) -> bytes:
    """The root over the entries [start, end), not empty, where `start` is a multiple of a power of two that is no
    smaller than `end - start`: such are all the ranges that proofs name."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(node(level, start >> level))
        start += 1 << level
    root = parts.pop()
    while parts:
        root = node_hash(parts.pop(), root)
    return root


def tree_root(size: int, node: Node) -> bytes:
    """The root of the tree of the first `size` entries."""
    return range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1: from the leaf's sibling to the root's child.

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} entries has no entry {index}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _largest_power_below(end - start)
        if index < middle:
            proof.append(range_root(middle, end, node))
            end = middle
        else:
            proof.append(range_root(start, middle, node))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, size: int, node: Node) -> list[bytes]:
    """PROOF(old_size, D[size]) of RFC 6962, section 2.1.2; empty when the sizes are equal or the old one is 0.

    Raises ValueError unless 0 <= old_size <= size.
    """
    if not 0 <= old_size <= size:
        raise ValueError(f"a tree of {size} entries never had {old_size}")
    if old_size in (0, size):
        return []
    proof: list[bytes] = []
    start, end = 0, size
    while end != old_size:
        middle = start + _largest_power_below(end - start)
        if old_size <= middle:
            proof.append(range_root(middle, end, node))
            end = middle
        else:
            proof.append(range_root(start, middle, node))
            start = middle
    if start:
        proof.append(range_root(start, end, node))
    proof.reverse()
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise ProofError unless `proof` shows that the tree of `size` entries under `root` has the leaf hash `leaf` at
    `index` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size} entries has no entry {index}")
    _check_hashes(proof)
    computed = leaf
    for sibling, is_left in zip(proof, _sides(index, size - 1, len(proof)), strict=True):
        computed = node_hash(sibling, computed) if is_left else node_hash(computed, sibling)
    if computed != root:
        raise ProofError("the inclusion proof leads to another root")


def verify_consistency(old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes) -> None:
    """Raise ProofError unless `proof` shows that the tree of `size` entries under `root` begins with the tree of
    `old_size` entries under `old_root` (RFC 9162, section 2.1.4.2)."""
    if not 0 <= old_size <= size:
        raise ProofError(f"a tree of {size} entries never had {old_size}")
    if old_size in (0, size):
        if proof:
            raise ProofError("the proof is too long")
        if old_root != (root if old_size else EMPTY_ROOT):
            raise ProofError("two trees of one size have different roots")
        return
    _check_hashes(proof)
    # The proof of a tree that is one complete subtree leaves that subtree out, since its hash is the old root.
    hashes = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not hashes:
        raise ProofError("the proof is too short")
    level = (old_size & -old_size).bit_length() - 1
    sides = _sides((old_size - 1) >> level, (size - 1) >> level, len(hashes) - 1)
    old_computed = computed = hashes[0]
    for sibling, is_left in zip(hashes[1:], sides, strict=True):
        old_computed = node_hash(sibling, old_computed) if is_left else old_computed
        computed = node_hash(sibling, computed) if is_left else node_hash(computed, sibling)
    if old_computed != old_root or computed != root:
        raise ProofError("the later tree does not begin with the earlier one")


def _check_hashes(proof: Sequence[bytes]) -> None:
    for item in proof:
        if len(item) != HASH_BYTES:
            raise ProofError(f"a hash of a proof has {len(item)} bytes, not {HASH_BYTES}")


def _sides(position: int, last: int, length: int) -> list[bool]:
    """For each of the `length` hashes of a proof whether it stands left of what it is hashed with, on the way from the
    node at `position`, in a row whose last is at `last`, to the root. Raises ProofError for another length."""
    sides = []
    for _ in range(length):
        if last == 0:
            raise ProofError("the proof is too long")
        is_left = bool(position & 1) or position == last
        if is_left:
            while position and not position & 1:
                position >>= 1
                last >>= 1
        sides.append(is_left)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the proof is too short")
    return sides
