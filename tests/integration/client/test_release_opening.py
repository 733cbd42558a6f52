"""A release opened as a device opens it: what holds comes out whole, and for anything else there is nothing."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import sys
import zipfile

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privyseal import Client, capgo
from privyseal.errors import ConfigurationError, FileUnusableError, InputError, NotVerifiedError, WriteError
from privyseal.release import opening
from privyseal.release.encrypted import EncryptedFile
from privyseal.release.opening import open_release
from privyseal.release.staging import AtomicFolder
from privyseal.release.update import Update, format_update, parse_update
from privyseal.sealing import BundleSecrets
from tests.fakes.signing_server import signing_server
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3
from tests.support.releases import PUBLIC_KEY, opened, read_app, seal, write_app

SECRETS = BundleSecrets(bytes(range(16)), bytes(16))
FILES = {"index.html": b"<p>Hello</p>\n" * 1000, "js/main.js": b"start()\n", "js/other.js": b"stop()\n"}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A release with a delta, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("release")
    with signing_server(VECTOR_V3.private_pem) as server:
        seal(server, write_app(folder / "app", FILES), folder / "out", delta=True, bundle_secrets=SECRETS)
    return folder / "out"


@pytest.fixture
def release(sealed, tmp_path):
    """A copy of it that may be changed."""
    root = tmp_path / "out"
    for name, data in read_app(sealed).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def change(root, **fields):
    """Change fields of update.json."""
    update = json.loads((root / "update.json").read_text())
    update.update(fields)
    (root / "update.json").write_text(json.dumps(update))


def change_entry(root, index, **fields):
    """Change fields of an entry of the manifest."""
    manifest = json.loads((root / "update.json").read_text())["manifest"]
    manifest[index].update(fields)
    change(root, manifest=manifest)


def body_of(root, index):
    entry = json.loads((root / "update.json").read_text())["manifest"][index]
    return root / entry["download_url"].partition("/app/")[2]


def refused(root, tmp_path, kind, says, **options):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(kind) as caught:
        opened(root, tmp_path / "opened", **options)
    assert says in caught.value.message
    assert caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == before


class TestGood:
    def test_delta_and_zip_are_the_same(self, release, tmp_path):
        assert opened(release, tmp_path / "delta") == opened(release, tmp_path / "zip", archive=True) == FILES

    def test_figures_and_progress(self, release, tmp_path):
        update, seen = parse_update((release / "update.json").read_bytes()), []
        found = open_release(update, release, public_key=PUBLIC_KEY, output=tmp_path / "o", progress=seen.append)
        assert (found.files, found.plain_bytes) == (3, sum(map(len, FILES.values())))
        assert seen == [33, 66, 100]

    def test_an_empty_folder_may_be_there(self, release, tmp_path):
        (tmp_path / "opened").mkdir()
        assert opened(release, tmp_path / "opened") == FILES

    def test_folders_on_the_way_are_made(self, release, tmp_path):
        assert opened(release, tmp_path / "a" / "b") == FILES

    def test_another_layout_with_its_base_url(self, release, tmp_path):
        root = tmp_path / "elsewhere"
        root.mkdir()
        entries = json.loads((release / "update.json").read_text())["manifest"]
        for number, entry in enumerate(entries):
            body_of(release, number).rename(root / f"{number} %")
            entry["download_url"] = f"https://cdn.example/x/{number}%20%25"
        change(release, manifest=entries, url="https://cdn.example/zip")
        (release / "update.json").rename(root / "update.json")
        assert opened(root, tmp_path / "opened", base_url="https://cdn.example/x/") == FILES

    def test_an_update_survives_its_form(self, release):
        data = (release / "update.json").read_bytes()
        assert format_update(parse_update(data)) == data


class TestTampered:
    @pytest.mark.parametrize("index", range(3))
    @pytest.mark.parametrize("place", ["first", "last"])
    def test_a_byte_of_a_body(self, release, tmp_path, index, place):
        path = body_of(release, index)
        data = bytearray(path.read_bytes())
        data[0 if place == "first" else -1] ^= 1
        path.write_bytes(data)
        refused(release, tmp_path, NotVerifiedError, "is not the body of")

    @given(data=st.data())
    @settings(deadline=None, max_examples=40)
    def test_any_byte_of_a_compressed_body(self, sealed, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("changed")
        for name, content in read_app(sealed).items():
            (folder / "out" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "out" / name).write_bytes(content)
        path = body_of(folder / "out", 0)
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        refused(folder / "out", folder, NotVerifiedError, "is not the body of 'index.html'")

    @pytest.mark.parametrize("size", [0, 1, 15])
    @pytest.mark.parametrize("index", [0, 1])
    def test_a_body_cut_short(self, release, tmp_path, index, size):
        path = body_of(release, index)
        path.write_bytes(path.read_bytes()[:size])
        refused(release, tmp_path, NotVerifiedError, "is not the body of")

    @pytest.mark.parametrize("more", [1, 16])
    @pytest.mark.parametrize("index", [0, 1])
    def test_a_body_with_more_after_it(self, release, tmp_path, index, more):
        path = body_of(release, index)
        path.write_bytes(path.read_bytes() + bytes(more))
        refused(release, tmp_path, NotVerifiedError, "is not the body of")

    def test_bodies_exchanged(self, release, tmp_path):
        one, two = body_of(release, 1), body_of(release, 2)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        refused(release, tmp_path, NotVerifiedError, "is not the body of 'js/main.js'")

    def test_a_compressed_body_called_plain(self, release, tmp_path):
        change_entry(release, 0, file_name="index.html")
        refused(release, tmp_path, NotVerifiedError, "is not the body of 'index.html'")

    def test_a_plain_body_called_compressed(self, release, tmp_path):
        change_entry(release, 1, file_name="js/main.js.br")
        refused(release, tmp_path, NotVerifiedError, "is not the body of 'js/main.js'")

    def test_a_body_that_is_missing(self, release, tmp_path):
        body_of(release, 1).unlink()
        refused(release, tmp_path, FileUnusableError, "no such file")

    def test_a_hash_of_another_key(self, release, tmp_path):
        change_entry(release, 1, file_hash=VECTOR_V2.hex("rsa_output_checksum_hex").hex())
        refused(release, tmp_path, NotVerifiedError, "the hash of 'js/main.js' was not signed")

    def test_a_plain_hash(self, release, tmp_path):
        change_entry(release, 1, file_hash="0" * 64)
        refused(release, tmp_path, InputError, "a plain SHA-256, not a signed one")

    def test_another_public_key(self, release, tmp_path):
        key = capgo.load_public_key(VECTOR_V2.public_pem.read_bytes())
        refused(release, tmp_path, NotVerifiedError, "the session key was not wrapped", public_key=key)

    def test_a_session_key_of_another_release(self, release, tmp_path):
        with signing_server(VECTOR_V3.private_pem) as server:
            seal(server, write_app(tmp_path / "app", FILES), tmp_path / "other", delta=True)
        change(release, session_key=json.loads((tmp_path / "other" / "update.json").read_text())["session_key"])
        refused(release, tmp_path, NotVerifiedError, "is not the body of")

    def test_a_byte_of_the_zip(self, release, tmp_path):
        path = release / "1.2.3" / "bundle.zip"
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
        refused(release, tmp_path, NotVerifiedError, "is not the bundle whose checksum was signed", archive=True)

    def test_more_than_any_file_of_an_app(self, release, tmp_path, monkeypatch):
        monkeypatch.setattr(opening, "LARGEST_FILE_BYTES", 5000)
        refused(release, tmp_path, NotVerifiedError, "is not the body of 'index.html'")

    def test_a_bomb_is_not_unpacked_into_memory_or_onto_the_disk(self, release, tmp_path, monkeypatch):
        compressor, chunk = brotli.Compressor(quality=1), bytes(1 << 20)
        bomb = b"".join(compressor.process(chunk) for _ in range(64)) + compressor.finish()
        path = body_of(release, 0)
        path.unlink()
        with EncryptedFile(path, SECRETS) as file:
            file.write(bomb)
            file.finish()
        written = []
        monkeypatch.setattr(opening, "LARGEST_FILE_BYTES", 2 << 20)
        monkeypatch.setattr(opening, "write_all", lambda file, data: written.append(len(data)))
        refused(release, tmp_path, NotVerifiedError, "is not the body of 'index.html'")
        assert sum(written) <= 2 << 20
        assert max(written) <= 1 << 20


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "../evil",
            "/etc/evil",
            "a/../../evil",
            "..",
            ".br",
            "a\\..\\evil",
            "a\0b",
            "js//x",
            "js/",
            "../evil.br",
            "./x",
            "a\nb",
        ],
    )
    def test_one_that_leads_out_or_is_none(self, release, tmp_path, name):
        change_entry(release, 2, file_name=name)
        refused(release, tmp_path, InputError, "the file name")
        assert not (tmp_path.parent / "evil").exists()

    @pytest.mark.parametrize("name", ["js/main.js", "JS/MAIN.js", "js/main.js/x", "js", "js/main.js.br"])
    def test_two_that_are_one(self, release, tmp_path, name):
        change_entry(release, 2, file_name=name)
        refused(release, tmp_path, InputError, "are one to some devices")

    @pytest.mark.parametrize(
        "url",
        [
            "https://updates.example.com/app/../secret",
            "https://updates.example.com/app/1.2.3/files/%2e%2e/%2e%2e/secret",
            "https://updates.example.com/app//etc/passwd",
            "https://updates.example.com/app/1.2.3%2f..%2f..%2fsecret",
            "https://updates.example.com/app/a%00b",
        ],
    )
    def test_a_url_that_leads_out(self, release, tmp_path, url):
        (tmp_path / "secret").write_bytes(b"secret")
        change_entry(release, 1, download_url=url)
        refused(release, tmp_path, InputError, "of a URL")

    @pytest.mark.parametrize(
        "url", ["https://evil.example/x", "file:///etc/passwd", "https://updates.example.com/app/x?y", "x"]
    )
    def test_a_url_that_is_elsewhere(self, release, tmp_path, url):
        change_entry(release, 1, download_url=url)
        refused(release, tmp_path, InputError, "is not below https://updates.example.com/app/")

    def test_a_url_of_another_layout(self, release, tmp_path):
        change(release, url="https://updates.example.com/app.zip")
        refused(release, tmp_path, InputError, "the url of the update does not end in 1.2.3/bundle.zip")


class TestMalformed:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "is not JSON"),
            (b"\xff", "is not JSON"),
            (b"[]", "is not a JSON object"),
            (b"{}", "the update has no version"),
            (b'{"version": 1}', "the update has no version"),
            (b'{"version": "1", "url": "u", "session_key": "s"}', "the update has no checksum"),
            (b'{"version": "1", "url": "u", "session_key": "s", "checksum": "c", "manifest": {}}', "is not a list"),
            (b'{"version": "1", "url": "u", "session_key": "s", "checksum": "c", "manifest": [1]}', "entry 0"),
            (
                b'{"version": "1", "url": "u", "session_key": "s", "checksum": "c", "manifest": [{"file_name": ""}]}',
                "entry 0",
            ),
        ],
    )
    def test_update(self, data, says):
        with pytest.raises(InputError, match=says):
            parse_update(data)

    def test_an_empty_manifest(self, release, tmp_path):
        change(release, manifest=[])
        refused(release, tmp_path, InputError, "the manifest is empty")

    def test_no_session_key(self, release, tmp_path):
        change(release, session_key="x:y")
        refused(release, tmp_path, InputError, "IV_SESSION_KEY")

    def test_a_folder_with_something_in_it(self, release, tmp_path):
        (tmp_path / "opened").mkdir()
        (tmp_path / "opened" / "mine").touch()
        refused(release, tmp_path, FileUnusableError, "opened exists already")
        assert (tmp_path / "opened" / "mine").exists()

    def test_a_file_in_its_place(self, release, tmp_path):
        (tmp_path / "opened").touch()
        refused(release, tmp_path, FileUnusableError, "opened exists already")

    def test_a_link_in_its_place(self, release, tmp_path):
        (tmp_path / "opened").symlink_to("nothing")
        refused(release, tmp_path, FileUnusableError, "opened exists already")

    def test_no_brotli(self, release, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "brotli", None)
        refused(release, tmp_path, ConfigurationError, "a delta needs the package brotli")
        assert opened(release, tmp_path / "opened", archive=True) == FILES

    @pytest.mark.parametrize("archive", [False, True])
    def test_a_full_disk(self, release, tmp_path, monkeypatch, archive):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(opening, "write_all", full)
        refused(release, tmp_path, WriteError, "No space left", archive=archive)


class TestArchive:
    """Zips that were signed, and are not what `bundle seal` makes."""

    def sealed_zip(self, folder, data: bytes) -> Update:
        (folder / "1.2.3").mkdir(parents=True)
        (folder / "plain.zip").write_bytes(data)
        with signing_server(VECTOR_V3.private_pem) as server, Client(f"http://{server.address}") as client:
            bundle = client.seal_bundle(folder / "plain.zip", output=folder / "1.2.3" / "bundle.zip")
        return Update("1.2.3", "1.2.3/bundle.zip", bundle.iv_session_key, bundle.checksum, None)

    def zipped(self, *names: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, b"data")
        return buffer.getvalue()

    @pytest.mark.parametrize("names", [("../evil",), ("/evil",), ("a", "A"), ("a", "a/b"), ("a\\b",)])
    def test_names(self, tmp_path, names):
        update = self.sealed_zip(tmp_path / "out", self.zipped("index.html", *names))
        with pytest.raises(InputError):
            open_release(update, tmp_path / "out", public_key=PUBLIC_KEY, output=tmp_path / "opened")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    def test_folders_in_it(self, tmp_path):
        update = self.sealed_zip(tmp_path / "out", self.zipped("index.html", "a/", "a/b"))
        open_release(update, tmp_path / "out", public_key=PUBLIC_KEY, output=tmp_path / "opened")
        assert read_app(tmp_path / "opened") == {"index.html": b"data", "a/b": b"data"}

    def test_a_broken_one(self, tmp_path):
        data = bytearray(self.zipped("index.html"))
        data[40] ^= 1  # of the file's content
        update = self.sealed_zip(tmp_path / "out", bytes(data))
        with pytest.raises(InputError, match="is not a zip that can be unpacked"):
            open_release(update, tmp_path / "out", public_key=PUBLIC_KEY, output=tmp_path / "opened")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    def test_a_manifest_is_followed_only_where_there_is_one(self, release, tmp_path):
        update = dataclasses.replace(parse_update((release / "update.json").read_bytes()), manifest=None)
        open_release(update, release, public_key=PUBLIC_KEY, output=tmp_path / "opened")
        assert read_app(tmp_path / "opened") == FILES


class TestAtomicFolder:
    def test_it_appears_whole(self, tmp_path):
        with AtomicFolder(tmp_path / "a" / "b") as staging:
            (staging.path / "file").write_bytes(b"x")
            assert not (tmp_path / "a" / "b").exists()
            staging.publish()
        assert read_app(tmp_path) == {"a/b/file": b"x"}

    def test_a_failure_takes_the_folders_that_were_made_with_it(self, tmp_path):
        (tmp_path / "there").mkdir()
        with pytest.raises(ZeroDivisionError), AtomicFolder(tmp_path / "there" / "a" / "b" / "c"):
            _ = 1 / 0
        assert [path.name for path in tmp_path.rglob("*")] == ["there"]

    def test_somebody_else_was_first(self, tmp_path):
        with AtomicFolder(tmp_path / "a") as staging:
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "theirs").touch()
            with pytest.raises(FileUnusableError, match="exists already"):
                staging.publish()
        assert read_app(tmp_path) == {"a/theirs": b""}

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(WriteError, match="Not a directory"), AtomicFolder(tmp_path / "file" / "a"):
            pass
