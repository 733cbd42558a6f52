"""A folder sealed as a release: what is in it, what it costs, and that nothing is there when anything fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privyseal import Client, SignatureScheme, capgo
from privyseal.errors import (
    ConfigurationError,
    FileUnusableError,
    InputError,
    NotVerifiedError,
    PermissionDeniedError,
    WriteError,
)
from privyseal.model import RequestContext
from privyseal.release import bodies, brotli, cache, encrypted, reading
from privyseal.release import seal as sealing
from privyseal.release.cache import SignatureCache
from privyseal.release.update import check_base_url, check_version
from privyseal.sealing import BundleSecrets
from tests.fakes.signing_server import Fault, signing_server
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3
from tests.support.releases import BASE_URL, PUBLIC_KEY, opened, seal, web_app, write_app

SECRETS = BundleSecrets(bytes(range(16)), bytes(16))


@pytest.fixture
def app(tmp_path):
    return write_app(tmp_path / "app", web_app())


def plain(path: Path) -> bytes:
    """What is in a file that was sealed with SECRETS, by hand."""
    decryptor = Cipher(algorithms.AES128(SECRETS.session_key), modes.CBC(SECRETS.iv)).decryptor()
    data = decryptor.update(path.read_bytes()) + decryptor.finalize()
    return data[: -data[-1]]


def answer(output: Path) -> dict:
    return json.loads((output / "update.json").read_text())


class TestRelease:
    def test_without_a_delta(self, server, app, tmp_path):
        release = seal(server, app, tmp_path / "out", bundle_secrets=SECRETS)
        found = answer(tmp_path / "out")
        assert list(found) == ["version", "url", "session_key", "checksum"]
        assert (found["version"], found["url"]) == ("1.2.3", f"{BASE_URL}/1.2.3/bundle.zip")
        assert server.methods() == ["GetKey", "WrapSessionKey", "SignChecksum"]
        assert (release.operations, release.bodies, release.files) == (2, (), len(web_app()))
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.2.3", "update.json"]
        assert sorted(path.name for path in (tmp_path / "out" / "1.2.3").iterdir()) == ["bundle.zip", "update.json"]
        assert release.archive_bytes == (tmp_path / "out" / "1.2.3" / "bundle.zip").stat().st_size
        assert opened(tmp_path / "out", tmp_path / "opened") == web_app()

    def test_a_delta(self, server, app, tmp_path):
        release = seal(server, app, tmp_path / "out", delta=True, bundle_secrets=SECRETS)
        found = answer(tmp_path / "out")
        assert answer(tmp_path / "out" / "1.2.3") == found
        assert list(found) == ["version", "url", "session_key", "checksum", "manifest"]
        files = {name: data for name, data in web_app().items() if data}
        names = [entry["file_name"] for entry in found["manifest"]]
        assert names == [
            "assets/8191.txt",
            "assets/8192.txt.br",
            "assets/app.js.br",
            "assets/app.js.br.br",
            "assets/deep/er/style.css.br",
            "assets/large.bin.br",
            "assets/picture.bin",
            "assets/sp ace #1?&%2e ü.txt",
            "assets/twin.css.br",
            "index.html.br",
            "main.js",
        ]
        for entry, (name, data) in zip(found["manifest"], sorted(files.items()), strict=True):
            assert list(entry) == ["file_name", "file_hash", "download_url"]
            assert len(entry["file_hash"]) == 512
            assert capgo.recover(PUBLIC_KEY, bytes.fromhex(entry["file_hash"])) == sha256(data).digest(), name
            path = entry["download_url"].removeprefix(f"{BASE_URL}/")
            body = plain(tmp_path / "out" / path)
            assert body == data or __import__("brotli").decompress(body) == data
        assert release.empty_files == 1
        assert {body.file.name: body.size_bytes for body in release.bodies} == {
            body.file.name: (release.path / "files" / body.object_name).stat().st_size for body in release.bodies
        }
        assert opened(tmp_path / "out", tmp_path / "opened") == files

    def test_the_cost_is_two_operations_and_one_for_each_content(self, server, app, tmp_path):
        release = seal(server, app, tmp_path / "out", delta=True)
        assert server.methods() == ["GetKey", "WrapSessionKey", "SignChecksum", "BatchSignChecksums"]
        contents = {data for data in web_app().values() if data}
        assert len(server.calls[-1].request.checksums) == len(contents)
        assert release.operations == 2 + len(contents)

    def test_v2(self, app, tmp_path):
        with signing_server(VECTOR_V2.private_pem) as server:
            seal(server, app, tmp_path / "out", delta=True, scheme=SignatureScheme.CAPGO_V2)
        found = answer(tmp_path / "out")
        assert {len(entry["file_hash"]) for entry in found["manifest"]} == {len(found["checksum"])} == {344}
        public_key = capgo.load_public_key(VECTOR_V2.public_pem.read_bytes())
        files = {name: data for name, data in web_app().items() if data}
        assert opened(tmp_path / "out", tmp_path / "opened", public_key=public_key) == files
        assert opened(tmp_path / "out", tmp_path / "whole", public_key=public_key, archive=True) == web_app()

    def test_context_and_key_are_sent(self, server, app, tmp_path):
        context = RequestContext(app_id="com.example.app", bundle_version="1.2.3")
        seal(server, app, tmp_path / "out", delta=True, context=context, key="demo")
        for call in server.calls[1:]:
            assert (call.request.key, call.request.context.app_id) == ("demo", "com.example.app")

    def test_releases_stand_side_by_side_and_the_answer_is_the_newest(self, server, app, tmp_path):
        seal(server, app, tmp_path / "out", delta=True)
        first = (tmp_path / "out" / "1.2.3" / "bundle.zip").read_bytes()
        seal(server, app, tmp_path / "out", delta=True, version="1.2.4-beta.1+5")
        assert answer(tmp_path / "out")["url"] == f"{BASE_URL}/1.2.4-beta.1%2B5/bundle.zip"
        assert (tmp_path / "out" / "1.2.3" / "bundle.zip").read_bytes() == first
        assert len(opened(tmp_path / "out", tmp_path / "opened")) == len(web_app()) - 1

    def test_relative_urls(self, server, app, tmp_path):
        seal(server, app, tmp_path / "out", delta=True, base_url="")
        assert answer(tmp_path / "out")["url"] == "1.2.3/bundle.zip"
        assert len(opened(tmp_path / "out", tmp_path / "opened")) == len(web_app()) - 1

    def test_fresh_secrets_each_time(self, server, app, tmp_path):
        seal(server, app, tmp_path / "out")
        seal(server, app, tmp_path / "out", version="1.2.4")
        one, two = (json.loads((tmp_path / "out" / v / "update.json").read_text()) for v in ("1.2.3", "1.2.4"))
        assert one["session_key"].split(":")[0] != two["session_key"].split(":")[0]
        assert one["checksum"] == two["checksum"]

    def test_no_object_looks_like_an_encoding_or_a_path(self, server, app, tmp_path):
        release = seal(server, app, tmp_path / "out", delta=True)
        for path in (release.path / "files").iterdir():
            assert path.name.removesuffix("-br").isalnum()
            assert len(path.name.removesuffix("-br")) == 64

    def test_progress_reaches_the_end(self, server, app, tmp_path):
        seen = []
        seal(server, app, tmp_path / "out", delta=True, progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == 100


class TestZip:
    def test_it_follows_from_names_and_contents_alone(self, server, app, tmp_path):
        other = tmp_path / "elsewhere"
        for name, data in reversed(web_app().items()):
            write_app(other, {name: data})
            (other / name).chmod(0o755)
            os.utime(other / name, (1, 1))
        (other / "an empty folder").mkdir()
        digests = set()
        for number, folder in enumerate((app, other)):
            release = seal(server, folder, tmp_path / f"out{number}", bundle_secrets=SECRETS)
            digests.add(sha256(plain(release.path / "bundle.zip")).digest())
        assert len(digests) == 1

    def test_another_process_makes_the_same(self, server, app, tmp_path):
        release = seal(server, app, tmp_path / "out", bundle_secrets=SECRETS)
        code = """
import sys
from pathlib import Path
from privyseal.release.archive import SealedArchive
from privyseal.release.folder import list_files
from privyseal.sealing import BundleSecrets
with SealedArchive(Path(sys.argv[2]), BundleSecrets(bytes(range(16)), bytes(16))) as archive:
    for file in list_files(Path(sys.argv[1])):
        with archive.adding(file.name, file.state.size_bytes) as entry:
            for byte in range(0, file.state.size_bytes, 997):
                entry.write(file.path.read_bytes()[byte : byte + 997])
    print(archive.finish().hex())
"""
        environ = {**os.environ, "TZ": "Asia/Tokyo", "LANG": "C", "PYTHONHASHSEED": "7"}
        done = subprocess.run(
            [sys.executable, "-c", code, app, tmp_path / "again"],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert bytes.fromhex(done.stdout) == sha256(plain(release.path / "bundle.zip")).digest()
        assert (tmp_path / "again").read_bytes() == (release.path / "bundle.zip").read_bytes()

    def test_what_is_in_it(self, server, app, tmp_path):
        release = seal(server, app, tmp_path / "out", bundle_secrets=SECRETS)
        (tmp_path / "plain.zip").write_bytes(plain(release.path / "bundle.zip"))
        with zipfile.ZipFile(tmp_path / "plain.zip") as archive:
            assert archive.testzip() is None
            assert archive.namelist() == sorted(web_app())
            for entry in archive.infolist():
                assert entry.date_time == (1980, 1, 1, 0, 0, 0)
                assert entry.external_attr >> 16 == 0o100644
                assert entry.compress_type == zipfile.ZIP_DEFLATED
                assert entry.extra == b""
            assert {name: archive.read(name) for name in archive.namelist()} == web_app()

    def test_a_reader_of_streams_alone_reads_it(self, server, app, tmp_path):
        """Android's does not look at the directory at the end: bsdtar and funzip are such readers, and so is this."""
        release = seal(server, app, tmp_path / "out", bundle_secrets=SECRETS)
        data, at, found = plain(release.path / "bundle.zip"), 0, {}
        while data[at : at + 4] == b"PK\x03\x04":
            flags, method = struct.unpack_from("<HH", data, at + 6)
            name_length, extra_length = struct.unpack_from("<HH", data, at + 26)
            assert (flags & 8, method) == (8, 8)
            name = data[at + 30 : at + 30 + name_length].decode()
            inflate = zlib.decompressobj(-15)
            found[name] = inflate.decompress(data[at + 30 + name_length + extra_length :])
            at = len(data) - len(inflate.unused_data)
            assert data[at : at + 4] == b"PK\x07\x08"
            assert struct.unpack_from("<L", data, at + 4)[0] == zlib.crc32(found[name])
            at += 16
        assert found == web_app()


class TestCache:
    @pytest.fixture
    def app(self, tmp_path):
        """Small files alone: what is compressed takes time."""
        return write_app(tmp_path / "app", {"index.html": b"<p>", **{f"{n}.js": b"let a\n" * n for n in range(1, 9)}})

    def test_three_changed_files_of_two_thousand_cost_three_operations_and_two(self, server, tmp_path):
        files = {f"part-{number % 50}/{number}.js": f"export default {number}\n".encode() for number in range(1999)}
        folder = write_app(tmp_path / "app", {"index.html": b"<p>", **files})
        first = seal(server, folder, tmp_path / "out", delta=True, signature_cache=tmp_path / "cache")
        assert (first.operations, first.cached) == (2002, 0)
        assert [len(c.request.checksums) for c in server.calls if c.method == "BatchSignChecksums"] == [2000]
        for number in (7, 800, 1998):
            (folder / f"part-{number % 50}" / f"{number}.js").write_text("changed\n" * (number + 1))
        server.calls.clear()
        second = seal(server, folder, tmp_path / "out", delta=True, version="1.2.4", signature_cache=tmp_path / "cache")
        assert server.methods() == ["GetKey", "WrapSessionKey", "SignChecksum", "BatchSignChecksums"]
        assert len(server.calls[-1].request.checksums) == 3
        assert (second.operations, second.cached) == (5, 1997)
        assert len(opened(tmp_path / "out", tmp_path / "opened")) == 2000

    def test_without_one_every_release_signs_every_file(self, server, app, tmp_path):
        costs = [seal(server, app, tmp_path / "out", delta=True, version=f"1.0.{n}").operations for n in range(2)]
        assert costs[0] == costs[1] > 2

    def test_nothing_changed(self, server, app, tmp_path):
        for n in range(2):
            release = seal(
                server, app, tmp_path / "out", delta=True, version=f"1.0.{n}", signature_cache=tmp_path / "c"
            )
        assert release.operations == 2
        assert server.methods()[-3:] == ["GetKey", "WrapSessionKey", "SignChecksum"]

    def test_it_holds_digests_and_signatures_and_nothing_else(self, server, app, tmp_path):
        release = seal(
            server,
            app,
            tmp_path / "out",
            delta=True,
            signature_cache=tmp_path / "deep" / "cache",
            bundle_secrets=SECRETS,
        )
        (path,) = (tmp_path / "deep" / "cache").iterdir()
        assert path.name == f"{capgo.fingerprint(PUBLIC_KEY)}.capgo-v3"
        data = path.read_bytes().removeprefix(b"privyseal signatures 1\n")
        assert SECRETS.session_key not in data
        distinct = {body.digest for body in release.bodies}
        assert len(data) == len(distinct) * 288
        entries = [data[start : start + 288] for start in range(0, len(data), 288)]
        assert {entry[:32] for entry in entries} == distinct
        assert all(capgo.recover(PUBLIC_KEY, entry[32:]) == entry[:32] for entry in entries)

    @pytest.mark.parametrize(
        "damage", ["flipped", "swapped", "truncated", "other magic", "empty", "junk", "of another key"]
    )
    def test_a_damaged_one_is_never_used(self, server, app, tmp_path, damage):
        seal(server, app, tmp_path / "out", delta=True, signature_cache=tmp_path / "cache")
        (path,) = (tmp_path / "cache").iterdir()
        data = bytearray(path.read_bytes())
        magic = len(b"privyseal signatures 1\n")
        count = (len(data) - magic) // 288
        if damage == "flipped":
            for entry in range(count):
                data[magic + entry * 288 + 100] ^= 1
        elif damage == "swapped":
            first, second = data[magic + 32 : magic + 288], data[magic + 320 : magic + 576]
            data[magic + 32 : magic + 288], data[magic + 320 : magic + 576] = second, first
        elif damage == "truncated":
            del data[-1:]
        elif damage == "other magic":
            data[20] ^= 1
        elif damage == "empty":
            data.clear()
        elif damage == "junk":
            data[magic:] = os.urandom(288 * count)
        else:
            with signing_server(VECTOR_V2.private_pem) as other:
                seal(other, app, tmp_path / "o", delta=True, signature_cache=tmp_path / "c")
            (stranger,) = (tmp_path / "c").iterdir()
            data = bytearray(stranger.read_bytes())
        path.write_bytes(data)
        again = seal(server, app, tmp_path / "out", delta=True, version="1.2.4", signature_cache=tmp_path / "cache")
        left = {"swapped": count - 2, "truncated": count - 1}.get(damage, 0)
        assert (again.cached, again.operations) == (left, 2 + count - left)
        assert len(opened(tmp_path / "out", tmp_path / "opened")) == 9
        repaired = seal(server, app, tmp_path / "out", delta=True, version="1.2.5", signature_cache=tmp_path / "cache")
        assert repaired.operations == 2

    def test_what_was_used_longest_ago_goes_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
        signatures = {}
        with signing_server(VECTOR_V3.private_pem) as server, Client(f"http://{server.address}") as client:
            for number in range(5):
                digest = sha256(bytes([number])).digest()
                signatures[digest] = client.sign_checksum(digest, scheme=SignatureScheme.CAPGO_V3).signature
        digests = list(signatures)

        def of(*numbers):
            return {digests[number]: signatures[digests[number]] for number in numbers}

        kept = SignatureCache(tmp_path, PUBLIC_KEY, SignatureScheme.CAPGO_V3)
        kept.keep(of(0, 1))
        kept.keep(of(2, 3))
        again = SignatureCache(tmp_path, PUBLIC_KEY, SignatureScheme.CAPGO_V3)
        assert set(again.find(digests)) == {digests[2], digests[3], digests[0]}
        again.keep(of(0))
        again.keep(of(4))
        assert set(SignatureCache(tmp_path, PUBLIC_KEY, SignatureScheme.CAPGO_V3).find(digests)) == {
            digests[number] for number in (4, 0, 2)
        }

    def test_schemes_are_kept_apart(self, tmp_path):
        for scheme in (SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3):
            SignatureCache(tmp_path, PUBLIC_KEY, scheme).keep({bytes(32): bytes(256)})
        assert len(list(tmp_path.iterdir())) == 2

    def test_only_deterministic_schemes(self, tmp_path):
        with pytest.raises(ValueError, match="rsassa-pss-sha256"):
            SignatureCache(tmp_path, PUBLIC_KEY, SignatureScheme.RSASSA_PSS_SHA256)

    def test_a_file_in_its_place(self, server, app, tmp_path):
        (tmp_path / "cache").touch()
        with pytest.raises(ConfigurationError, match="is not a folder"):
            seal(server, app, tmp_path / "out", delta=True, signature_cache=tmp_path / "cache")
        assert server.calls == []


class TestBodies:
    @pytest.mark.parametrize("gain_bytes", [10, 11])
    def test_eleven_bytes_must_be_gained(self, server, tmp_path, monkeypatch, gain_bytes):
        class Compressor:
            def process(self, data):
                return data[gain_bytes:]

            def finish(self):
                return b""

        class Brotli:
            error = ValueError

            def Compressor(self, *, quality, lgwin):
                assert (quality, lgwin) == (11, 22)
                return Compressor()

        monkeypatch.setattr(brotli, "load", Brotli)
        folder = write_app(tmp_path / "app", {"index.html": b"a" * 8192})
        release = seal(server, folder, tmp_path / "out", delta=True)
        assert [body.manifest_name for body in release.bodies] == ["index.html.br" if gain_bytes > 10 else "index.html"]

    @pytest.mark.parametrize("size", [0, 1, 100, 1537, 8191])
    def test_no_body_takes_the_short_cut_of_devices(self, size):
        window_bits = bodies._NARROW_WINDOW_BITS
        for last in range(256):
            compressor = brotli.load().Compressor(quality=11, lgwin=window_bits)
            stream = compressor.process(os.urandom(size) + bytes([last])) + compressor.finish()
            assert stream[:3] not in {b"\x1b\x00\x06", b"\x0b\x02\x80"}
            assert stream[0] & 1 == 0
            if size > 200:
                break

    def test_only_so_much_waits(self, tmp_path):
        """The thread that reads goes on only when the one that works has taken something."""
        budget = bodies._Budget(100)
        feed = bodies.Feed(budget)
        handed = []

        def hand_over():
            for number in range(6):
                feed.add(bytes(40))
                handed.append(number)
            feed.end(bytes(32))

        thread = threading.Thread(target=hand_over)
        thread.start()
        taken = []
        for chunk in feed.chunks():
            taken.append(len(chunk))
            deadline_s = time.monotonic() + 10
            while len(handed) < min(6, len(taken) + 1) and time.monotonic() < deadline_s:
                time.sleep(0.001)
            assert len(handed) <= len(taken) + 1
        thread.join()
        assert (taken, feed.digest()) == ([40] * 6, bytes(32))

    def test_a_chunk_larger_than_all_passes_alone(self):
        feed = bodies.Feed(bodies._Budget(10))
        feed.add(bytes(1000))
        feed.end(bytes(32))
        assert [len(chunk) for chunk in feed.chunks()] == [1000]

    def test_little_may_wait_and_all_gets_through(self, server, app, tmp_path, monkeypatch):
        original = bodies._Budget
        monkeypatch.setattr(bodies, "_Budget", lambda limit: original(1))
        monkeypatch.setattr(reading, "CHUNK_BYTES", 5000)
        seal(server, app, tmp_path / "out", delta=True, workers=1)
        assert len(opened(tmp_path / "out", tmp_path / "opened")) == len(web_app()) - 1

    def test_files_are_opened_once(self, server, app, tmp_path, monkeypatch):
        read = []
        original = reading.open_input
        monkeypatch.setattr(reading, "open_input", lambda path: read.append(path) or original(path))
        seal(server, app, tmp_path / "out", delta=True)
        assert len(read) == len(set(read)) == len(web_app())

    def test_the_service_is_asked_while_files_are_read(self, server, app, tmp_path, monkeypatch):
        """The files wait for the service, and the service for the files: only both at once get on."""
        asked, begun = threading.Event(), threading.Event()
        original = reading.open_input

        def wait_for_service(path):
            begun.set()
            assert asked.wait(20)
            return original(path)

        def before(method):
            if method == "WrapSessionKey":
                assert begun.wait(20)
                asked.set()

        server.before = before
        monkeypatch.setattr(reading, "open_input", wait_for_service)
        seal(server, app, tmp_path / "out", delta=True)

    def test_files_are_signed_while_bodies_are_made(self, server, app, tmp_path, monkeypatch):
        """The bodies wait for the batch."""
        signed = threading.Event()
        original = bodies._CompressedFile.finish

        def wait_for_batch(self):
            assert signed.wait(20)
            original(self)

        def before(method):
            if method == "BatchSignChecksums":
                signed.set()

        server.before = before
        monkeypatch.setattr(bodies._CompressedFile, "finish", wait_for_batch)
        seal(server, app, tmp_path / "out", delta=True)

    def test_without_the_package_a_sentence_names_the_extra(self, server, app, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "brotli", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'privyseal\[delta\]'"):
            seal(server, app, tmp_path / "out", delta=True)
        assert server.calls == []
        assert seal(server, app, tmp_path / "out").operations == 2  # a zip alone needs none


class TestNothingIsLeft:
    @pytest.fixture(autouse=True)
    def _nothing_left(self, tmp_path):
        yield
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("method", ["WrapSessionKey", "SignChecksum", "BatchSignChecksums"])
    def test_a_wrong_answer(self, server, app, tmp_path, method):
        if method == "BatchSignChecksums":
            digest, type1 = sha256(web_app()["main.js"]).digest(), server.type1
            server.type1 = lambda data: type1(data[::-1] if data == digest else data)
        server.corrupt.add(method)
        with pytest.raises(NotVerifiedError, match="does not verify"):
            seal(server, app, tmp_path / "out", delta=True)

    def test_an_answer_for_one_file_is_an_error(self, server, app, tmp_path):
        server.batch_errors[3] = (grpc.StatusCode.PERMISSION_DENIED.value[0], "the grant has ended")
        with pytest.raises(PermissionDeniedError, match="the grant has ended"):
            seal(server, app, tmp_path / "out", delta=True, signature_cache=tmp_path / "cache")

    @pytest.mark.parametrize("method", ["GetKey", "WrapSessionKey", "SignChecksum", "BatchSignChecksums"])
    def test_a_refusal(self, server, app, tmp_path, method):
        server.fail(method, Fault(grpc.StatusCode.PERMISSION_DENIED, "no grant"))
        with pytest.raises(PermissionDeniedError):
            seal(server, app, tmp_path / "out", delta=True)

    def test_the_service_cannot_be_connected(self, app, tmp_path):
        def refuse():
            raise ConfigurationError("no service")

        with pytest.raises(ConfigurationError, match="no service"):
            sealing.seal_folder(
                refuse, app, version="1.2.3", output=tmp_path / "out", scheme=SignatureScheme.CAPGO_V3, delta=True
            )

    @pytest.mark.parametrize("change", ["longer", "shorter", "other bytes", "another file", "link"])
    def test_a_file_that_changes(self, server, app, tmp_path, monkeypatch, change):
        original = sealing.list_files
        path = app / "assets" / "picture.bin"

        def then_change(folder):
            found = original(folder)
            data = path.read_bytes()
            if change == "another file":
                path.unlink()
                path.write_bytes(data)
            elif change == "link":
                (tmp_path / "outside").write_bytes(data)
                path.unlink()
                path.symlink_to(tmp_path / "outside")
            else:
                path.write_bytes({"longer": data + b"a", "shorter": data[:-1], "other bytes": data[::-1]}[change])
                os.utime(path, (1, 1))
            return found

        monkeypatch.setattr(sealing, "list_files", then_change)
        with pytest.raises(InputError, match=r"picture\.bin changed while the folder was sealed"):
            seal(server, app, tmp_path / "out", delta=True)
        assert "SignChecksum" not in server.methods()

    def test_a_file_that_changes_while_it_is_read(self, server, app, tmp_path, monkeypatch):
        path = app / "assets" / "large.bin"
        original = bodies.Feed.add

        def grow(self, chunk):
            if path.stat().st_size == 300_000:
                with path.open("ab") as file:
                    file.write(b"more")
            original(self, chunk)

        monkeypatch.setattr(bodies.Feed, "add", grow)
        with pytest.raises(InputError, match="changed while the folder was sealed"):
            seal(server, app, tmp_path / "out", delta=True)

    def test_a_file_that_goes_away(self, server, app, tmp_path, monkeypatch):
        original = sealing.list_files

        def then_remove(folder):
            found = original(folder)
            (folder / "main.js").unlink()
            return found

        monkeypatch.setattr(sealing, "list_files", then_remove)
        with pytest.raises(FileUnusableError, match="no such file"):
            seal(server, app, tmp_path / "out", delta=True)

    def test_a_file_that_cannot_be_read(self, server, app, tmp_path, monkeypatch):
        # Root reads everything, so the refusal is made here.
        original = os.open

        def refuse(path, *rest, **more):
            if Path(path).name == "main.js":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return original(path, *rest, **more)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(FileUnusableError, match=r"main\.js cannot be read"):
            seal(server, app, tmp_path / "out", delta=True)

    @pytest.mark.parametrize("delta", [False, True])
    @pytest.mark.parametrize("after", [0, 3, 20])
    def test_a_full_disk(self, server, app, tmp_path, monkeypatch, delta, after):
        original, calls = encrypted.write_all, iter(range(10**6))

        def full(*arguments):
            if next(calls) >= after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(*arguments)

        if not delta:
            after = 0
        monkeypatch.setattr(encrypted, "write_all", full)
        with pytest.raises(WriteError, match="No space left"):
            seal(server, app, tmp_path / "out", delta=delta)
        assert "SignChecksum" not in server.methods() or delta

    def test_a_private_key_in_the_folder(self, server, app, tmp_path):
        (app / "assets" / "oops.js").write_bytes(b"export const key = `\n" + VECTOR_V3.private_pem + b"`")
        with pytest.raises(InputError, match=r"oops\.js holds a private key"):
            seal(server, app, tmp_path / "out", delta=True)
        assert "SignChecksum" not in server.methods()

    def test_a_name_too_long_for_a_delta(self, server, app, tmp_path):
        (app / ("a" * 191)).write_bytes(b"x")
        with pytest.raises(InputError, match="more than 190 bytes"):
            seal(server, app, tmp_path / "out", delta=True)
        release = seal(server, app, tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        assert release.files == len(web_app()) + 1

    @pytest.mark.parametrize("where", [".", "public", "assets/../public"])
    def test_an_output_inside_of_the_folder(self, server, app, where):
        with pytest.raises(ConfigurationError, match="is inside of"):
            seal(server, app, app / where)
        assert server.calls == []

    @pytest.mark.parametrize(
        "version", ["", "1", "1.2", "01.2.3", "1.2.3/..", "../1.2.3", "1.2.3 ", "v1.2.3", "1.2.3-", "1.2." + "3" * 100]
    )
    def test_a_version_that_is_none(self, server, app, tmp_path, version):
        with pytest.raises(ConfigurationError, match="is not a semantic version"):
            seal(server, app, tmp_path / "out", version=version)

    @pytest.mark.parametrize(
        "url",
        ["x", "updates.example.com", "ftp://a/b", "https://", "https://a/b?c", "https://a/#b", "https://u:p@a/",
         "https://a b/", "https://a:0/", "https://a:x/", "https://ä/"],
    )  # fmt: skip
    def test_a_base_url_that_is_none(self, server, app, tmp_path, url):
        with pytest.raises(ConfigurationError, match="is not the address of a folder"):
            seal(server, app, tmp_path / "out", base_url=url)


def test_versions_and_urls_that_fit():
    for version in ("0.0.1", "1.2.3-beta.1+build.5", "10.20.30-rc-1"):
        check_version(version)
    assert check_base_url("https://a.example:8443/x//") == "https://a.example:8443/x/"
    assert check_base_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000/"


def test_a_version_is_sealed_once(server, app, tmp_path):
    seal(server, app, tmp_path / "out")
    before = (tmp_path / "out" / "1.2.3" / "bundle.zip").read_bytes(), (tmp_path / "out" / "update.json").read_bytes()
    calls = len(server.calls)
    with pytest.raises(FileUnusableError, match=r"1\.2\.3 exists already"):
        seal(server, app, tmp_path / "out")
    assert len(server.calls) == calls
    assert (
        (tmp_path / "out" / "1.2.3" / "bundle.zip").read_bytes(),
        (tmp_path / "out" / "update.json").read_bytes(),
    ) == before


def test_a_failure_leaves_an_older_release_as_it_was(server, app, tmp_path):
    seal(server, app, tmp_path / "out")
    before = (tmp_path / "out" / "update.json").read_bytes()
    server.corrupt.add("SignChecksum")
    with pytest.raises(NotVerifiedError):
        seal(server, app, tmp_path / "out", version="1.2.4", delta=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.2.3", "update.json"]
    assert (tmp_path / "out" / "update.json").read_bytes() == before
