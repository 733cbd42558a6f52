"""Files and folders as digests."""

from __future__ import annotations

import io
import os
from hashlib import sha256
from pathlib import Path

import pytest

from privyseal import digests
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


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    seen = digests.open_input(path)

    class Changing(io.FileIO):
        def readinto(self, buffer):
            count = super().readinto(buffer)
            path.write_bytes(b"22")
            return count

    monkeypatch.setattr(digests, "open_input", lambda _: Changing(seen.fileno(), "rb", closefd=False))
    with seen, pytest.raises(InputError, match="changed while it was read"):
        file_digest(path)


def test_links_inside_the_folder_are_followed(tmp_path):
    folder = tmp_path / "CodePush"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "a").write_bytes(b"1")
    (folder / "linked").symlink_to("real")
    (folder / "file").symlink_to(folder / "real" / "a")
    (tmp_path / "Other").symlink_to(folder)
    assert set(folder_digests(tmp_path / "Other")) == {"Other/file", "Other/linked/a", "Other/real/a"}


@pytest.mark.parametrize(
    ("target", "said"),
    [("../secret", "out of the folder"), ("../elsewhere", "out of the folder"), ("gone", "nowhere"), ("a", "nowhere")],
)
def test_links_that_lead_elsewhere_are_refused(tmp_path, target, said):
    (tmp_path / "CodePush").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secret").touch()
    (tmp_path / "CodePush" / "a").symlink_to(target)
    with pytest.raises(InputError, match=said):
        folder_digests(tmp_path / "CodePush")


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
