"""Atomic writes: a reader finds the old content or the new, and a failure leaves no temporary file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from privyseal_service.system.files import SystemFiles, atomic_writer, make_folder, write_atomically


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"old", b"new"):
        write_atomically(file, content)
        assert file.read_bytes() == content
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_content_is_there_until_all_of_the_new_is(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with atomic_writer(file) as write:
        write(b"ne")
        assert file.read_bytes() == b"old"
        write(b"w")
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("shared", [False, True])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, *, shared: bool) -> None:
    class Full(SystemFiles):
        def sync(self, descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(OSError) as caught:
        write_atomically(file, b"new", Full(), shared=shared)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_crash_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half")
    write_atomically(tmp_path / "file", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "nowhere" / "file", b"")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")


def test_folders_are_private_and_may_not_be_writable_by_others(tmp_path: Path) -> None:
    make_folder(SystemFiles(), tmp_path / "a" / "b")
    assert {folder.stat().st_mode & 0o777 for folder in (tmp_path / "a", tmp_path / "a" / "b")} == {0o700}
    (tmp_path / "a").chmod(0o770)
    with pytest.raises(PermissionError):
        make_folder(SystemFiles(), tmp_path / "a")
