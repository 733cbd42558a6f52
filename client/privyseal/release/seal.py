"""Seal a folder of web files as a release: one pass over the files, and as few operations as can be.

While the files are read, and for a delta compressed, the connection is made and the session key wrapped. When the last
one is read, the checksum of the zip is signed, and in one batch those of the files; threads still work on the bodies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privyseal import capgo
from privyseal._files import AtomicOutput, write_all
from privyseal.errors import ConfigurationError, InputError
from privyseal.model import Key, RequestContext, SignatureScheme
from privyseal.release import brotli, cache, names
from privyseal.release.archive import SealedArchive
from privyseal.release.bodies import Bodies, Body
from privyseal.release.folder import FolderFile, list_files
from privyseal.release.reading import Counter, Reader
from privyseal.release.signatures import ReleaseSigner, Signing
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
from privyseal.sealing import BundleSecrets

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt


MOST_WORKERS = 4
"""Compressing takes some 90 MB of memory a thread."""


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
        count = Counter(plain_bytes * (2 if delta else 1), progress)
        archive = stack.enter_context(SealedArchive(staging.path / ARCHIVE_NAME, bundle_secrets))
        bodies = None
        if compression is not None:
            objects = staging.path / OBJECTS_NAME
            bodies = Bodies(objects, bundle_secrets, compression, workers=workers or _cores(), progress=count.add)
            stack.enter_context(bodies)
        reader = stack.enter_context(Reader(files, archive, bodies, count))
        signing = Signing(open_signer(), key, scheme, context, require_receipts=require_receipts)
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
