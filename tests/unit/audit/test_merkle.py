"""The Merkle tree against RFC 6962 as it is written there, its known vectors, and proofs that must not hold."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal.transparency.merkle import (
    EMPTY_ROOT,
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from tests.support.audit.helpers import naive_path, naive_proof, naive_root

# The leaves and roots that Certificate Transparency implementations have tested each other with since RFC 6962.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.integers(1, 600)


def hashes_of(size: int) -> list[bytes]:
    return [leaf_hash(b"%d" % i) for i in range(size)]


def node_of(hashes: list[bytes]):
    def node(level: int, index: int) -> bytes:
        start, end = index << level, (index + 1) << level
        assert end <= len(hashes), "a node over entries that are not there was asked for"
        return naive_root(hashes[start:end])

    return node


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_known_roots(size):
    hashes = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert root_of(hashes).hex() == ROOTS[size]
    assert tree_root(size, node_of(hashes)).hex() == ROOTS[size]


def test_the_empty_tree_is_the_hash_of_nothing():
    assert sha256(b"").digest() == EMPTY_ROOT == root_of([])


@given(sizes)
def test_roots_agree_with_the_rfc(size):
    hashes = hashes_of(size)
    assert root_of(hashes) == naive_root(hashes) == tree_root(size, node_of(hashes))


@given(st.data(), sizes)
def test_inclusion_proofs_agree_with_the_rfc_and_hold(data, size):
    index = data.draw(st.integers(0, size - 1))
    hashes = hashes_of(size)
    proof = inclusion_proof(index, size, node_of(hashes))
    assert proof == naive_path(index, hashes)
    verify_inclusion(hashes[index], index, size, proof, naive_root(hashes))


@given(st.data(), sizes)
def test_consistency_proofs_agree_with_the_rfc_and_hold(data, size):
    old_size = data.draw(st.integers(0, size))
    hashes = hashes_of(size)
    proof = consistency_proof(old_size, size, node_of(hashes))
    assert proof == (naive_proof(old_size, hashes) if old_size else [])
    verify_consistency(old_size, size, proof, naive_root(hashes[:old_size]), naive_root(hashes))


def corruptions(proof: list[bytes]) -> list[list[bytes]]:
    other = sha256(b"other").digest()
    wrong = [[*proof, other], [other, *proof], proof[:-1], proof[1:]] if proof else [[other]]
    wrong += [[*proof[:i], other, *proof[i + 1 :]] for i in range(len(proof))]
    wrong += [[*proof[:i], proof[i][:-1], *proof[i + 1 :]] for i in range(len(proof))]
    return [candidate for candidate in wrong if candidate != proof]


@given(st.data(), st.integers(1, 70))
def test_a_changed_inclusion_proof_never_holds(data, size):
    index = data.draw(st.integers(0, size - 1))
    hashes = hashes_of(size)
    root, proof = naive_root(hashes), naive_path(index, hashes)
    for wrong in corruptions(proof):
        with pytest.raises(ProofError):
            verify_inclusion(hashes[index], index, size, wrong, root)
    for other in {0, index + 1, index - 1, size, -1} - {index}:
        with pytest.raises(ProofError):
            verify_inclusion(hashes[index], other, size, proof, root)
    with pytest.raises(ProofError):
        verify_inclusion(leaf_hash(b"never written"), index, size, proof, root)


@given(st.data(), st.integers(2, 70))
def test_a_changed_consistency_proof_never_holds(data, size):
    old_size = data.draw(st.integers(1, size))
    hashes = hashes_of(size)
    old_root, root = naive_root(hashes[:old_size]), naive_root(hashes)
    proof = consistency_proof(old_size, size, node_of(hashes))
    for wrong in corruptions(proof):
        with pytest.raises(ProofError):
            verify_consistency(old_size, size, wrong, old_root, root)
    other = leaf_hash(b"never written")
    for roots in ((other, root), (old_root, other)):
        with pytest.raises(ProofError):
            verify_consistency(old_size, size, proof, *roots)


def test_a_rewritten_tree_is_not_consistent_with_the_old_one():
    hashes = hashes_of(100)
    rewritten = [*hashes[:40], leaf_hash(b"other"), *hashes[41:]]
    with pytest.raises(ProofError, match="does not begin with"):
        verify_consistency(
            50, 100, consistency_proof(50, 100, node_of(rewritten)), naive_root(hashes[:50]), naive_root(rewritten)
        )


@pytest.mark.parametrize(("old_size", "size"), [(-1, 3), (4, 3)])
def test_sizes_that_never_were_are_refused(old_size, size):
    with pytest.raises(ValueError):
        consistency_proof(old_size, size, node_of(hashes_of(3)))
    with pytest.raises(ProofError):
        verify_consistency(old_size, size, [], EMPTY_ROOT, EMPTY_ROOT)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_entry_that_is_not_there_has_no_proof(index):
    with pytest.raises(ValueError):
        inclusion_proof(index, 3, node_of(hashes_of(3)))


def test_leaves_and_nodes_are_hashed_apart():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
