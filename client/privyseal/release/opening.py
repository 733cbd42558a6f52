"""Open a release as a device does: from update.json and the public key, file by file, each one verified.

What comes out appears whole or not at all. The names in a manifest are not signed: those that lead out of the folder,
and two that are one, are refused before anything is written, as on devices.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo
from privyseal._cipher import BLOCK_BYTES, PaddingError, decrypt_stream
from privyseal._files import open_input, reading, write_all
from privyseal.errors import InputError, NotVerifiedError
from privyseal.opening import open_bundle
from privyseal.release import brotli, names
from privyseal.release.brotli import Brotli
from privyseal.release.names import COMPRESSED_SUFFIX
from privyseal.release.staging import AtomicFolder, writing
from privyseal.release.update import ManifestEntry, Update, base_url_of, path_of

LARGEST_FILE_BYTES = 1 << 30
"""A body may decompress to much more than a disk holds, and its hash is known only at its end."""

LONGEST_UPDATE_BYTES = 64 << 20
"""Of update.json: some 70,000 files."""

_PIECE_BYTES = 1 << 18
_NOTHING_WRITTEN = "devices refuse this update; nothing was written"


@dataclass(frozen=True)
class Opened:
    """What was opened and verified: how many files, and the bytes in them."""

    files: int
    plain_bytes: int


@dataclass(frozen=True)
class _Task:
    """A file of the delta: its name, its body, whether that is compressed, and the SHA-256 that was signed."""

    name: str
    body: Path
    compressed: bool
    digest: bytes


def open_release(
    update: Update,
    root: Path,
    *,
    public_key: RSAPublicKey,
    output: Path,
    base_url: str | None = None,
    archive: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Opened:
    """Open `update` into the folder `output`, which must not exist or be empty.

    `root` is the folder that stands for `base_url`, by default the URL of the folder that update.json is served from.
    The manifest is followed where there is one, else, or with `archive`, the zip. `progress` is called with the
    percentage of the files. Raises InputError for what is malformed, NotVerifiedError where something does not hold,
    ConfigurationError, FileUnusableError and WriteError; then there is no `output`, or an empty one as before.
    """
    capgo.check_capgo_key(public_key)
    sealed_key = capgo.parse_iv_session_key(update.session_key)
    session_key = capgo.recover_session_key(public_key, sealed_key.wrapped_key)
    base = base_url_of(update) if base_url is None else base_url
    if update.manifest is None or archive:
        return _open_archive(update, _local(base, update.url, root), public_key, output)
    if not update.manifest:
        raise InputError("the manifest is empty", remedy=_NOTHING_WRITTEN)
    tasks = [_task(entry, base, root, public_key) for entry in update.manifest]
    _check_names(task.name for task in tasks)
    compression = brotli.load() if any(task.compressed for task in tasks) else None
    plain_bytes = 0
    with AtomicFolder(output) as staging:
        for done, task in enumerate(tasks, 1):
            plain_bytes += _open_body(task, staging.path, session_key, sealed_key.iv, compression)
            if progress is not None:
                progress(100 * done // len(tasks))
        staging.publish()
    return Opened(len(tasks), plain_bytes)


def _local(base_url: str, url: str, root: Path) -> Path:
    """The file that stands for a URL."""
    path = path_of(base_url, url)
    wrong = names.problem(path)
    if wrong is not None:
        raise InputError(f"the path {path!r} of a URL {wrong}", remedy="this update was not made by `bundle seal`")
    return root / path


def _task(entry: ManifestEntry, base_url: str, root: Path, public_key: RSAPublicKey) -> _Task:
    scheme, signature = capgo.parse_checksum(entry.file_hash)
    try:
        digest = capgo.recover_checksum(public_key, scheme, signature)
    except NotVerifiedError as error:
        raise NotVerifiedError(
            f"the hash of {entry.file_name!r} was not signed by the owner of this public key", remedy=error.remedy
        ) from None
    compressed = entry.file_name.endswith(COMPRESSED_SUFFIX)
    name = entry.file_name.removesuffix(COMPRESSED_SUFFIX)
    return _Task(name, _local(base_url, entry.download_url, root), compressed, digest)


def _check_names(found: Iterable[str]) -> None:
    every = list(found)
    for name in every:
        wrong = names.problem(name)
        if wrong is not None:
            raise InputError(f"the file name {name!r} {wrong}", remedy=_NOTHING_WRITTEN)
    two = names.clash(every)
    if two is not None:
        raise InputError(f"the files {two[0]!r} and {two[1]!r} are one to some devices", remedy=_NOTHING_WRITTEN)


def _open_body(task: _Task, folder: Path, session_key: bytes, iv: bytes, compression: Brotli | None) -> int:
    """Decrypt, decompress and verify one file of the delta; returns its size in bytes."""
    target = folder / task.name
    with open_input(task.body) as source, reading(task.body):
        size_bytes = os.fstat(source.fileno()).st_size
        with _new_file(target) as file:
            plain = _PlainFile(target, file)
            unpacked = _Unpacked(compression, plain) if task.compressed and compression is not None else None
            try:
                decrypt_stream(source, plain.write if unpacked is None else unpacked.write, session_key, iv)
                whole = size_bytes % BLOCK_BYTES == 0 and (unpacked is None or unpacked.ended())
            except (PaddingError, _BrokenStreamError, _TooLargeError):
                whole = False
    if not whole or plain.digest.digest() != task.digest:
        raise NotVerifiedError(
            f"{task.body} is not the body of {task.name!r} whose hash was signed",
            remedy="it was changed, or belongs to another release; nothing was written",
        )
    return plain.size_bytes


class _BrokenStreamError(Exception):
    """A body is no compressed stream."""


class _TooLargeError(Exception):
    """A file would be larger than any file of an app."""


class _PlainFile:
    """A file that comes out, hashed as it is written."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self.digest = sha256()
        self.size_bytes = 0

    def write(self, data: memoryview) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > LARGEST_FILE_BYTES:
            raise _TooLargeError
        self.digest.update(data)
        with writing(self._path):
            write_all(self._file, data)


class _Unpacked:
    """Decompresses what it is given in pieces of bounded size."""

    def __init__(self, compression: Brotli, plain: _PlainFile) -> None:
        self._stream = compression.Decompressor()
        self._error = compression.error
        self._plain = plain

    def write(self, data: memoryview) -> None:
        piece = bytes(data)
        while piece or not self._stream.is_finished():
            unpacked = self._process(piece)
            piece = b""
            # Output may be left inside though the stream takes more data: only an empty answer says that there is none.
            if not unpacked and self._stream.can_accept_more_data():
                return
            self._plain.write(memoryview(unpacked))

    def ended(self) -> bool:
        """Whether the stream is whole."""
        return self._stream.is_finished()

    def _process(self, data: bytes) -> bytes:
        try:
            return self._stream.process(data, output_buffer_limit=_PIECE_BYTES)
        except self._error:
            raise _BrokenStreamError from None


def _open_archive(update: Update, path: Path, public_key: RSAPublicKey, output: Path) -> Opened:
    """Decrypt and verify the zip, and unpack it: nothing of it is looked at before its checksum holds."""
    with (
        AtomicFolder(output) as staging,
        tempfile.TemporaryDirectory(prefix=".privyseal-", suffix=".partial", dir=staging.path.parent) as scratch,
    ):
        plain = Path(scratch, "bundle.zip")
        open_bundle(
            path, iv_session_key=update.session_key, checksum=update.checksum, public_key=public_key, output=plain
        )
        plain_bytes = 0
        with _unpacking(path), zipfile.ZipFile(plain) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_names(entry.filename for entry in entries)
            for entry in entries:
                plain_bytes += _unpack(archive, entry, staging.path)
        staging.publish()
    return Opened(len(entries), plain_bytes)


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> int:
    target = folder / entry.filename
    with archive.open(entry) as source, _new_file(target) as file:
        plain = _PlainFile(target, file)
        while piece := source.read(_PIECE_BYTES):
            plain.write(memoryview(piece))
    return plain.size_bytes


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    """Turn what zipfile raises into InputError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, _TooLargeError):
        raise InputError(
            f"{path} was signed, but is not a zip that can be unpacked", remedy="seal the folder again"
        ) from None


@contextmanager
def _new_file(path: Path) -> Iterator[FileIO]:
    """A new file, and the folders that it is in."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "xb")
    with file:
        yield file
