"""Seal a folder of web files as a release: one pass over the files, and as few operations as can be.

While the files are read, and for a delta compressed, the connection is made and the session key wrapped. When the last
one is read, the checksum of the zip is signed, and in one batch those of the files; threads still work on the bodies.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo
from privyseal._cipher import StoppedError
from privyseal._files import AtomicOutput, FileState, open_input, reading, write_all
from privyseal.errors import ConfigurationError, InputError, ServiceError
from privyseal.exec.app import is_private_key
from privyseal.model import Key, RequestContext, SignatureScheme, SignedChecksum, WrappedKey, WrapScheme
from privyseal.release import brotli, cache, names
from privyseal.release.archive import SealedArchive
from privyseal.release.bodies import Bodies, Body, Feed
from privyseal.release.cache import SignatureCache
from privyseal.release.folder import FolderFile, list_files
from privyseal.release.staging import AtomicFolder, writing
from privyseal.release.update import (
    ARCHIVE_NAME,
    FILE_NAME,
    OBJECTS_NAME,
    ManifestEntry,
    Update,
    archive_path,
    check_base_url,
    check_version,
    format_update,
    object_path,
    url_of,
)
from privyseal.sealing import BundleSecrets, Signer
from privyseal.verification import check_signature, check_wrapped_key, no_receipts, public_key_of

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt

CHUNK_BYTES = 1 << 18
"""What is read at a time; small, since nothing stops in the middle of a chunk, and compressing is slow."""

MOST_WORKERS = 4
"""Compressing takes some 90 MB of memory a thread."""

BATCH_CHECKSUMS = 2000
"""What the service takes in one call, each with the time limit of a call."""

_LARGEST_KEY_FILE_BYTES = 64 * 1024


class ReleaseSigner(Signer, Protocol):
    """What a release asks of a service; `privyseal.Client` is one."""

    def batch_sign_checksums(
        self,
        checksums: Sequence[bytes],
        *,
        scheme: SignatureScheme,
        key: str | None = None,
        context: RequestContext | None = None,
    ) -> list[SignedChecksum | ServiceError]:
        """See `Client.batch_sign_checksums`."""


@dataclass(frozen=True)
class Release:
    """A release: `path` is its folder, `update_path` the answer for the endpoint, and `update` what is in it.

    `files` counts those of the folder and `plain_bytes` what is in them; `archive_bytes` is the size of the sealed zip.
    `bodies` are the delta's, none without one. `operations` is how many the key made, `cached` how many signatures came
    from the cache. `receipts` are those of the operations, without proof; none without an audit trail.
    """

    path: Path
    update_path: Path
    update: Update
    scheme: SignatureScheme
    key: Key
    files: int
    empty_files: int
    plain_bytes: int
    archive_bytes: int
    bodies: tuple[Body, ...]
    operations: int
    cached: int
    receipts: tuple[Receipt, ...] = ()


def seal_folder(
    open_signer: Callable[[], ReleaseSigner],
    folder: Path,
    *,
    version: str,
    output: Path,
    scheme: SignatureScheme,
    base_url: str = "",
    key: str | None = None,
    delta: bool = False,
    signature_cache: Path | None = None,
    context: RequestContext | None = None,
    bundle_secrets: BundleSecrets | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    require_receipts: bool = False,
) -> Release:
    """Seal all files of `folder` into `output`/`version`, and write `output`/update.json.

    `version` is a semantic version that is not in `output` yet. `base_url` is where `output` will be served; without it
    the URLs are relative. With `delta`, every file that is not empty has a body and a signature of its own.
    `signature_cache` is a folder; an unchanged file then needs no operation. `progress` is called with the percentage
    done, from several threads, one at a time. `bundle_secrets` is for known answers in tests; leave it out.
    With `require_receipts`, a service that keeps no audit trail is a failure.

    Nothing appears before every answer was checked with the public key, and nothing at all when anything fails. Raises
    ConfigurationError, FileUnusableError, InputError, WriteError, NotVerifiedError, and what the signer raises.
    """
    check_version(version)
    base_url = check_base_url(base_url) if base_url else ""
    compression = brotli.load() if delta else None
    if signature_cache is not None:
        cache.prepare(signature_cache)
    files = list_files(folder)
    if delta:
        _check_lengths(files)
    _check_apart(folder, output)
    bundle_secrets = bundle_secrets or BundleSecrets.random()
    plain_bytes = sum(file.state.size_bytes for file in files)
    with AtomicFolder(output / version) as staging, AtomicOutput(output / FILE_NAME) as answer, ExitStack() as stack:
        count = _Counter(plain_bytes * (2 if delta else 1), progress)
        archive = stack.enter_context(SealedArchive(staging.path / ARCHIVE_NAME, bundle_secrets))
        bodies = None
        if compression is not None:
            objects = staging.path / OBJECTS_NAME
            bodies = Bodies(objects, bundle_secrets, compression, workers=workers or _cores(), progress=count.add)
            stack.enter_context(bodies)
        reader = stack.enter_context(_Reader(files, archive, bodies, count))
        signing = _Signing(open_signer(), key, scheme, context, require_receipts=require_receipts)
        wrapped_key = signing.wrap(bundle_secrets)
        digests = reader.digests()
        checksum = signing.sign(reader.checksum)
        signatures = signing.sign_files(dict.fromkeys(digests), signature_cache) if delta else {}
        made = tuple(bodies.results()) if bodies is not None else ()
        update = Update(
            version=version,
            url=url_of(base_url, archive_path(version)),
            session_key=capgo.format_iv_session_key(capgo.IvSessionKey(bundle_secrets.iv, wrapped_key)),
            checksum=capgo.format_checksum(scheme, checksum),
            manifest=_manifest(made, signatures, scheme, version, base_url) if delta else None,
        )
        _publish(update, staging, answer)
    return Release(
        path=output / version,
        update_path=output / FILE_NAME,
        update=update,
        scheme=scheme,
        key=signing.key,
        files=len(files),
        empty_files=sum(not file.state.size_bytes for file in files),
        plain_bytes=plain_bytes,
        archive_bytes=archive.sealed.size_bytes,
        bodies=made,
        operations=signing.operations,
        cached=signing.cached,
        receipts=tuple(signing.receipts),
    )


def _publish(update: Update, staging: AtomicFolder, answer: AtomicOutput) -> None:
    """The release first, then the answer that leads devices to it."""
    data = format_update(update)
    with writing(staging.path):
        (staging.path / FILE_NAME).write_bytes(data)
    with answer.writing():
        write_all(answer.file, data)
    staging.publish()
    answer.publish()


def _manifest(
    bodies: Iterable[Body], signatures: dict[bytes, bytes], scheme: SignatureScheme, version: str, base_url: str
) -> tuple[ManifestEntry, ...]:
    return tuple(
        ManifestEntry(
            file_name=body.manifest_name,
            file_hash=capgo.format_checksum(scheme, signatures[body.digest]),
            download_url=url_of(base_url, object_path(version, body.object_name)),
        )
        for body in bodies
    )


def _check_lengths(files: Iterable[FolderFile]) -> None:
    long = next((file.name for file in files if names.is_too_long(file.name)), None)
    if long is not None:
        raise InputError(
            f"the name {long} has more than {names.LONGEST_BYTES} bytes after its folders, which devices cannot keep",
            remedy="shorten it, or seal without --delta",
        )


def _check_apart(folder: Path, output: Path) -> None:
    if output.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"the output {output} is inside of {folder}, so that the next release would hold this one",
            remedy="name another folder",
        )


def _cores() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MOST_WORKERS)


class _Counter:
    """Turns bytes done on several threads into a percentage."""

    def __init__(self, total_bytes: int, progress: Callable[[int], None] | None) -> None:
        self._total_bytes = max(total_bytes, 1)
        self._progress = progress
        self._done_bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done_bytes += count
            if self._progress is not None:
                self._progress(100 * self._done_bytes // self._total_bytes)


class _Reader:
    """Reads every file once, on a thread of its own, into the zip and, for a delta, the bodies: a context manager."""

    def __init__(self, files: list[FolderFile], archive: SealedArchive, bodies: Bodies | None, count: _Counter) -> None:
        self.checksum = b""
        self._files = files
        self._archive = archive
        self._bodies = bodies
        self._count = count
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="privyseal-read")
        self._future: Future[list[bytes]] | None = None

    def __enter__(self) -> _Reader:
        self._future = self._pool.submit(self._read_all)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._bodies is not None:
            self._bodies.stop()
        self._pool.shutdown()

    def digests(self) -> list[bytes]:
        """Wait until all is read; the SHA-256 of every file that is not empty. `checksum` is then that of the zip."""
        assert self._future is not None
        try:
            return self._future.result()
        except StoppedError:
            # What stopped the reading is of more use than that it stopped.
            failure = self._bodies.failure() if self._bodies is not None else None
            if failure is None:
                raise
            raise failure from None

    def _read_all(self) -> list[bytes]:
        digests = [self._read(file) for file in self._files]
        self.checksum = self._archive.finish()
        return [digest for file, digest in zip(self._files, digests, strict=True) if file.state.size_bytes]

    def _read(self, file: FolderFile) -> bytes:
        with ExitStack() as stack:
            source = stack.enter_context(open_input(file.path))
            stack.enter_context(reading(file.path))
            _check_unchanged(file, source)
            feed = None
            if self._bodies is not None and file.state.size_bytes:
                feed = stack.enter_context(self._bodies.feeding(file))
            digest = self._copy(file, source, feed)
            _check_unchanged(file, source)
            if feed is not None:
                feed.end(digest)
            return digest

    def _copy(self, file: FolderFile, source: FileIO, feed: Feed | None) -> bytes:
        digest = sha256()
        with self._archive.adding(file.name, file.state.size_bytes) as entry:
            while chunk := source.read(CHUNK_BYTES):
                if self._stop.is_set():
                    raise StoppedError
                if file.state.size_bytes <= _LARGEST_KEY_FILE_BYTES:
                    _check_no_private_key(file, chunk)
                digest.update(chunk)
                entry.write(chunk)
                if feed is not None:
                    feed.add(chunk)
                self._count.add(len(chunk))
        return digest.digest()


def _check_unchanged(file: FolderFile, source: FileIO) -> None:
    """What was listed is what is read, from its first byte to its last; a link that was put there meanwhile is not."""
    if FileState.of(os.fstat(source.fileno())) != file.state:
        raise InputError(
            f"{file.path} changed while the folder was sealed",
            remedy="wait until the build is done, then seal it again",
        )


def _check_no_private_key(file: FolderFile, data: bytes) -> None:
    if is_private_key(data):
        raise InputError(
            f"{file.path} holds a private key, which everybody who has the app could read",
            remedy="take it out of the folder",
        )


class _Signing:
    """The operations of one release, each answer checked with the public key, and counted."""

    def __init__(
        self,
        signer: ReleaseSigner,
        key: str | None,
        scheme: SignatureScheme,
        context: RequestContext | None,
        *,
        require_receipts: bool,
    ) -> None:
        self._signer = signer
        self._scheme = scheme
        self._context = context
        self._require_receipts = require_receipts
        self.key = signer.get_key(key)
        self._public_key: RSAPublicKey = public_key_of(self.key)
        capgo.check_capgo_key(self._public_key)
        self.operations = 0
        self.cached = 0
        self.receipts: list[Receipt] = []

    def wrap(self, bundle_secrets: BundleSecrets) -> bytes:
        """The wrapped session key, 256 bytes."""
        wrapped = self._signer.wrap_session_key(
            bundle_secrets.session_key, scheme=WrapScheme.CAPGO, key=self.key.name, context=self._context
        )
        self._done(wrapped)
        check_wrapped_key(self._public_key, wrapped.wrapped_key, bundle_secrets.session_key)
        return wrapped.wrapped_key

    def sign(self, checksum: bytes) -> bytes:
        """The signature of the zip's checksum. It is never taken from the cache: each release is on the service's
        record."""
        signed = self._signer.sign_checksum(checksum, scheme=self._scheme, key=self.key.name, context=self._context)
        self._done(signed)
        check_signature(self._public_key, self._scheme, checksum, signed.signature)
        return signed.signature

    def sign_files(self, digests: Iterable[bytes], cache_folder: Path | None) -> dict[bytes, bytes]:
        """The signatures of files by their SHA-256, in a batch those that are not in the cache; which then has all."""
        wanted = list(digests)
        if cache_folder is None:
            return self._sign_batch(wanted)
        known = SignatureCache(cache_folder, self._public_key, self._scheme)
        signatures = known.find(wanted)
        self.cached = len(signatures)
        signatures |= self._sign_batch([digest for digest in wanted if digest not in signatures])
        known.keep(signatures)
        return signatures

    def _sign_batch(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        signatures = {}
        for start in range(0, len(digests), BATCH_CHECKSUMS):
            part = digests[start : start + BATCH_CHECKSUMS]
            results = self._signer.batch_sign_checksums(
                part, scheme=self._scheme, key=self.key.name, context=self._context
            )
            for digest, result in zip(part, results, strict=True):
                if isinstance(result, ServiceError):
                    raise result
                self._done(result)
                check_signature(self._public_key, self._scheme, digest, result.signature)
                signatures[digest] = result.signature
        return signatures

    def _done(self, answer: WrappedKey | SignedChecksum) -> None:
        self.operations += 1
        if answer.audit is not None:
            self.receipts.append(answer.audit)
        elif self._require_receipts:
            raise no_receipts()
