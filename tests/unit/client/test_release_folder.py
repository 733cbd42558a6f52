"""What of a folder can be released: names, links, and what is refused with one sentence."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal.errors import FileUnusableError, InputError
from privyseal.release import names
from privyseal.release.folder import list_files


@pytest.fixture
def app(tmp_path):
    """A folder that can be released."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "index.html").write_text("<p>Hello</p>")
    return folder


class TestNames:
    @pytest.mark.parametrize(
        "name", ["index.html", "a/b/c", "a b", "%2e%2e/#?&", "ü/漢字", "..a", "a..", "x.br", "-", "a'\"b", ".hidden"]
    )
    def test_fit(self, name):
        assert names.problem(name) is None

    @pytest.mark.parametrize(
        "name",
        ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\..\\b", "a\0b", "a\nb"],
    )
    def test_unfit(self, name):
        assert names.problem(name) is not None

    def test_not_utf8(self):
        assert names.problem(os.fsdecode(b"a\xff")) == "is not UTF-8"

    @given(st.text())
    def test_what_fits_stays_in_the_folder(self, name):
        if names.problem(name) is None:
            assert os.path.normpath(f"/base/{name}") == f"/base/{name}"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("a", "A"),
            ("a", "a"),
            ("d/É", "D/e\u0301"),
            ("straße", "STRASSE"),
            ("a", "a/b"),
            ("d/A", "d/a/b"),
            ("a/b", "A"),
        ],
    )
    def test_clash(self, one, other):
        found = names.clash(["x", one, "y", other])
        assert found is not None
        assert set(found) == {one, other}

    def test_no_clash(self):
        assert names.clash(["a/b", "a/c", "ab", "A b", "a.br"]) is None

    def test_length_is_that_of_the_last_part_in_bytes(self):
        assert not names.is_too_long("d" * 200 + "/" + "a" * 190)
        assert names.is_too_long("a" * 191)
        assert names.is_too_long("ü" * 96)


class TestFolder:
    def test_every_file_in_the_order_of_code_points(self, app):
        for name in ("z.js", "Z.js", "é.js", "a/b/c.js", "a.js", "a-.js", ".hidden"):
            (app / name).parent.mkdir(parents=True, exist_ok=True)
            (app / name).write_bytes(b"x")
        (app / "empty folder").mkdir()
        (app / "Z.js").unlink()
        found = list_files(app)
        assert [file.name for file in found] == [".hidden", "a-.js", "a.js", "a/b/c.js", "index.html", "z.js", "é.js"]
        assert found[0].state.size_bytes == 1

    def test_the_index_of_the_only_folder_will_do(self, tmp_path):
        (tmp_path / "app" / "www").mkdir(parents=True)
        (tmp_path / "app" / "www" / "index.html").touch()
        assert [file.name for file in list_files(tmp_path / "app")] == ["www/index.html"]

    def test_a_link_inside_is_the_file_that_it_leads_to(self, app):
        (app / "real.js").write_bytes(b"real")
        (app / "link.js").symlink_to("real.js")
        (link,) = (file for file in list_files(app) if file.name == "link.js")
        assert (link.path, link.state.size_bytes) == ((app / "real.js").resolve(), 4)

    def test_a_folder_that_is_itself_a_link(self, app, tmp_path):
        (tmp_path / "link").symlink_to(app)
        assert [file.name for file in list_files(tmp_path / "link")] == ["index.html"]


class TestRefused:
    def refused(self, folder, says, kind=InputError):
        with pytest.raises(kind) as caught:
            list_files(folder)
        assert says in caught.value.message
        assert caught.value.remedy

    def test_no_such_folder(self, tmp_path):
        self.refused(tmp_path / "none", "no such file", FileUnusableError)

    def test_a_file(self, app):
        self.refused(app / "index.html", "is not a folder", FileUnusableError)

    def test_an_empty_folder(self, tmp_path):
        (tmp_path / "deep" / "er").mkdir(parents=True)
        self.refused(tmp_path, "has no files in it")

    def test_no_index(self, app):
        (app / "index.html").rename(app / "main.html")
        self.refused(app, "has no index.html")

    def test_an_index_too_deep(self, app):
        (app / "www").mkdir()
        (app / "index.html").rename(app / "www" / "index.html")
        (app / "other.js").touch()
        self.refused(app, "has no index.html")

    @pytest.mark.parametrize("target", ["../outside.js", "/etc/hostname", "link.js", "nothing"])
    def test_a_link_that_does_not_lead_to_a_file_inside(self, app, tmp_path, target):
        (tmp_path / "outside.js").touch()
        (app / "link.js").symlink_to(target)
        self.refused(app, "leads nowhere" if target in {"link.js", "nothing"} else "leads out of the folder")

    def test_a_link_through_a_link_that_leads_out(self, app, tmp_path):
        (tmp_path / "outside.js").touch()
        (app / "one.js").symlink_to("two.js")
        (app / "two.js").symlink_to(tmp_path / "outside.js")
        self.refused(app, "leads out of the folder")

    def test_a_link_to_a_folder(self, app):
        (app / "real").mkdir()
        (app / "link").symlink_to("real")
        self.refused(app, "is a link to a folder")

    def test_a_pipe(self, app):
        os.mkfifo(app / "pipe")
        self.refused(app, "neither a file nor a folder")

    def test_a_socket(self, app, monkeypatch):
        monkeypatch.chdir(app)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            self.refused(app, "neither a file nor a folder")

    @pytest.mark.parametrize("name", [b"a\\b.js", b"a\nb.js", b"a\x7fb.js", b"a\xffb.js"])
    def test_an_odd_name(self, app, name):
        (app / os.fsdecode(name)).touch()
        self.refused(app, "the name")

    def test_two_names_that_differ_in_case(self, app):
        (app / "Main.js").touch()
        (app / "main.js").touch()
        self.refused(app, "has Main.js and main.js, which are one name to some devices")

    def test_a_folder_that_cannot_be_read(self, app, monkeypatch):
        # Root reads everything, so the refusal is made here.
        def refuse(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(os, "scandir", refuse)
        self.refused(app, "Permission denied", FileUnusableError)
