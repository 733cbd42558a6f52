"""Tiles: the paths and widths that C2SP tlog-tiles prints, growth in any steps, and proofs read from files."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privyseal.transparency.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of, tree_root
from privyseal_service.audit.errors import LogIntegrityError, NotInLogError
from privyseal_service.audit.tiles import (
    ENTRIES,
    GrowingTree,
    TileReader,
    last_full_tiles,
    pack_entries,
    tile_path,
    tile_width,
    tiles_of,
    unpack_entries,
)
from privyseal_service.system.files import write_atomically
from tests.support.audit.helpers import naive_path, naive_proof, naive_root


def entry(i: int) -> bytes:
    return b"entry %d" % i


def save(folder, files):
    for path, data in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / path, data)


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (3, 1234067, 256, "tile/3/x001/x234/067"),
        (0, 273, 112, "tile/0/273.p/112"),
        (ENTRIES, 999, 1, "tile/entries/999.p/1"),
        (ENTRIES, 1000, 256, "tile/entries/x001/000"),
        (63, 5, 255, "tile/63/005.p/255"),
    ],
)
def test_paths(level, index, width, path):
    assert tile_path(level, index, width) == path


def test_the_tiles_of_70000_entries_are_those_of_the_document():
    tiles = list(tiles_of(70_000))
    assert sum(level == 0 and width == 256 for level, _, width in tiles) == 273
    assert [tile for tile in tiles if tile[0] == 0 and tile[2] < 256] == [(0, 273, 112)]
    assert [tile for tile in tiles if tile[0] > 0] == [(1, 0, 256), (1, 1, 17), (2, 0, 1)]
    assert list(tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 1 << 40))
def test_widths_agree_with_the_formula(size):
    for level in range(5):
        index = size // 256 ** (level + 1)
        assert tile_width(level, index, size) == size // 256**level % 256
        assert tile_width(level, index + 1, size) == 0
        if index:
            assert tile_width(level, index - 1, size) == 256


@given(st.lists(st.binary(min_size=1, max_size=300)))
def test_bundles_come_back(entries):
    assert unpack_entries(pack_entries(entries)) == entries


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x05abc", b"\x00\x01a\x00"])
def test_a_cut_bundle_is_refused(data):
    with pytest.raises(ValueError):
        unpack_entries(data)


@pytest.mark.parametrize("data", [b"", b"x" * 65_536])
def test_entries_of_no_size_are_refused(data):
    tree = GrowingTree()
    with pytest.raises(ValueError):
        tree.extend([entry(1), data, entry(2)])
    assert (tree.size, tree.partial()) == (0, [])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_growing_in_any_steps_over_restarts_gives_the_rfcs_tree(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("log")
    size = 0
    for step in steps:
        tree = GrowingTree.load(TileReader(folder), size)
        tree.extend([entry(i) for i in range(size, size + step)])
        size += step
        save(folder, tree.take_full() + tree.partial())
        hashes = [leaf_hash(entry(i)) for i in range(size)]
        assert tree.size == size
        assert tree.root() == root_of(hashes) == tree_root(size, TileReader(folder).node(size))
    for level, index, width in tiles_of(size):
        data = TileReader(folder).tile(level, index, width)
        start = index * 256
        expected = [root_of(hashes[i << 8 * level : (i + 1) << 8 * level]) for i in range(start, start + width)]
        assert data == b"".join(expected)
        if level == 0:
            assert TileReader(folder).entries(index, width) == [entry(i) for i in range(start, start + width)]
    for path in last_full_tiles(size):
        assert (folder / path).is_file()


def test_proofs_from_tiles_are_the_rfcs(tmp_path):
    size = 1_500
    tree = GrowingTree()
    tree.extend([entry(i) for i in range(size)])
    hashes = [leaf_hash(entry(i)) for i in range(size)]
    save(tmp_path, tree.take_full() + tree.partial())
    node = TileReader(tmp_path).node(size)
    for index in (0, 1, 255, 256, 700, 1_023, 1_024, 1_279, 1_280, 1_499):
        assert inclusion_proof(index, size, node) == naive_path(index, hashes)
    for old in (1, 2, 255, 256, 257, 1_024, 1_025, 1_280, 1_499, 1_500):
        assert consistency_proof(old, size, node) == naive_proof(old, hashes)
    assert tree.root() == naive_root(hashes)


def test_a_full_tile_stands_in_for_a_partial_one(tmp_path):
    tree = GrowingTree()
    tree.extend([entry(i) for i in range(300)])
    save(tmp_path, tree.take_full())
    assert TileReader(tmp_path).tile(0, 0, 7) == b"".join(leaf_hash(entry(i)) for i in range(7))
    assert TileReader(tmp_path).entries(0, 7) == [entry(i) for i in range(7)]


def test_tiles_that_are_missing_or_short_are_named(tmp_path):
    with pytest.raises(NotInLogError, match=r"log/tile/0/000\.p/7 is missing"):
        TileReader(tmp_path).tile(0, 0, 7)
    save(
        tmp_path,
        [("tile/0/000.p/7", b"short"), ("tile/entries/000.p/7", b"\x00\x01a"), ("tile/entries/001.p/7", b"\x00")],
    )
    with pytest.raises(LogIntegrityError, match=r"log/tile/0/000\.p/7"):
        TileReader(tmp_path).tile(0, 0, 7)
    for index in (0, 1):
        with pytest.raises(LogIntegrityError, match=rf"log/tile/entries/00{index}\.p/7"):
            TileReader(tmp_path).entries(index, 7)


@pytest.mark.parametrize("name", ["tile/0/000", "tile/entries/000"])
def test_tiles_without_end_are_not_read_to_it(tmp_path, name):
    save(tmp_path, [(name, b"")])
    os.truncate(tmp_path / name, 1 << 40)
    reader = TileReader(tmp_path)
    with pytest.raises(LogIntegrityError, match=f"log/{name}: has more than"):
        reader.entries(0, 256) if "entries" in name else reader.tile(0, 0, 256)
