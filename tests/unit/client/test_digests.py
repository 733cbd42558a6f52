"""Files and folders as digests."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from privyseal.digests import file_digest, folder_digests
from privyseal.errors import FileUnusableError, InputError


def test_a_file_of_several_pieces(tmp_path):
    content = os.urandom(2_500_001)
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == sha256(content).digest()


def test_an_empty_file(tmp_path):
    (tmp_path / "a").touch()
    assert file_digest(tmp_path / "a") == sha256().digest()


def test_a_folder_by_the_names_from_its_parent(tmp_path, monkeypatch):
    folder = tmp_path / "CodePush"
    (folder / "assets" / "empty").mkdir(parents=True)
    (folder / "index").write_bytes(b"1")
    (folder / "assets" / "ü b.png").write_bytes(b"2")
    wanted = {"CodePush/index": sha256(b"1").digest(), "CodePush/assets/ü b.png": sha256(b"2").digest()}
    assert folder_digests(folder) == wanted
    monkeypatch.chdir(folder)
    assert folder_digests(Path()) == wanted
    assert folder_digests(Path("assets/..")) == wanted
    assert set(folder_digests(folder, lambda name: name.endswith("index"))) == {"CodePush/index"}


def test_links_are_followed(tmp_path):
    folder = tmp_path / "CodePush"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_bytes(b"1")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "file").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "Other").symlink_to(folder)
    assert set(folder_digests(tmp_path / "Other")) == {"Other/file", "Other/linked/a"}


def test_a_link_upwards(tmp_path):
    folder = tmp_path / "CodePush"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "up").symlink_to(folder)
    with pytest.raises(InputError, match="a link to a folder above it"):
        folder_digests(folder)


def test_a_name_that_is_not_unicode(tmp_path):
    (tmp_path / os.fsdecode(b"a\xff")).touch()
    with pytest.raises(InputError, match="not Unicode"):
        folder_digests(tmp_path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        with pytest.raises(FileUnusableError):
            file_digest(wrong)
    with pytest.raises(FileUnusableError, match="not a regular file"):
        folder_digests(tmp_path)


def test_what_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for wrong, said in ((tmp_path / "file", "is not a folder"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(FileUnusableError, match=said):
            folder_digests(wrong)
