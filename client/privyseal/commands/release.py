"""`privyseal bundle seal` and `bundle open`: a release for a self-hosted update endpoint, made and opened."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal._terminal import Progress, result, say, warn
from privyseal.commands._connection import connection_options, key_option, open_client, settings_from
from privyseal.commands._context import context_from, record_options
from privyseal.commands._formats import format_options, public_key_option, read_public_key, scheme_of
from privyseal.commands._receipts import keeping_receipts, receipt_option

if TYPE_CHECKING:
    from privyseal._client import Client
    from privyseal.release.seal import Release

_PATH = click.Path(path_type=Path)

_SEAL_EPILOG = """\b
Examples:
  privyseal bundle seal dist --version 1.2.3 --output public --base-url https://updates.example.com/app
  privyseal bundle seal dist --version 1.2.3 --output public --base-url https://updates.example.com/app --delta \\
    --signature-cache ~/.cache/my-app-signatures --format capgo-v3 --json > release.json
"""


@click.command(epilog=_SEAL_EPILOG, short_help="Seal a folder for your own update server, whole and as a delta.")
@click.argument("folder", type=_PATH, metavar="FOLDER")
@click.option("--version", required=True, metavar="VERSION", help="The release's semantic version.")
@click.option("--output", type=_PATH, required=True, metavar="DIR", help="What is served; update.json goes there too.")
@click.option("--base-url", metavar="URL", help="Where DIR is served.  [default: the URLs are relative]")
@click.option("--delta", is_flag=True, help="Seal each file too, so that devices load only what changed.")
@click.option(
    "--signature-cache",
    type=_PATH,
    metavar="FOLDER",
    help="Keep the signatures of the delta's files there, and use them again for files that did not change.",
)
@key_option
@connection_options
@format_options
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@record_options
@receipt_option
def seal(
    *,
    folder: Path,
    version: str,
    output: Path,
    base_url: str | None,
    delta: bool,
    signature_cache: Path | None,
    key: str | None,
    bundle_format: str | None,
    package_json: str | None,
    as_json: bool,
    app_id: str | None,
    revision: str | None,
    build_url: str | None,
    receipt: Path | None,
    timeout_s: float,
    **connection: Any,
) -> None:
    """Seal all files of FOLDER as DIR/VERSION, and write DIR/update.json for your update endpoint.

    The zip is the same for the same files. With --delta every file that is not empty is sealed by itself too, with one
    operation each, all in one batch. Nothing appears before the answers of the service were checked against its public
    key.
    """
    settings = settings_from(connection, key=key, bundle_format=bundle_format)
    settings.require_connection()
    scheme = scheme_of(settings.format, package_json)

    from privyseal.release.seal import seal_folder  # noqa: PLC0415 - help and version need none of it
    from privyseal.release.update import FILE_NAME  # noqa: PLC0415

    context = context_from(app_id, version, revision, build_url)
    begun_s = time.monotonic()
    with ExitStack() as stack:
        keeper = stack.enter_context(keeping_receipts(receipt, [output / FILE_NAME]))

        def open_signer() -> Client:
            keeper.client = stack.enter_context(open_client(settings, timeout_s, context))
            return keeper.client

        with Progress(f"Sealing {folder}", 100, wanted=not as_json) as progress:
            release = seal_folder(
                open_signer,
                folder,
                version=version,
                output=output,
                scheme=scheme,
                base_url=base_url or "",
                key=settings.key,
                delta=delta,
                signature_cache=signature_cache,
                context=context,
                progress=progress,
                require_receipts=receipt is not None,
            )
        _report(release, folder, as_json=as_json, seconds=time.monotonic() - begun_s)
        _warn_of_urls(base_url)
        keeper.keep(release.receipts)


def _report(release: Release, folder: Path, *, as_json: bool, seconds: float) -> None:
    if as_json:
        result(json.dumps(_summary(release, seconds), indent=2, ensure_ascii=False))
        return
    say(
        f"Sealed {folder} ({_count(release.files, 'file')}, {_size(release.plain_bytes)}) as {release.update.version}, "
        f"{release.scheme.value}, with the key {release.key.name}."
    )
    say(f"Zip: {_size(release.archive_bytes)}.")
    if release.update.manifest is not None:
        packed = sum(body.compressed for body in release.bodies)
        delta_bytes = sum(body.size_bytes for body in release.bodies)
        empty = f"; {release.empty_files} empty, which deltas leave out" if release.empty_files else ""
        say(f"Delta: {_count(len(release.bodies), 'file')}, {_size(delta_bytes)}, {packed} of them compressed{empty}.")
    cached = f", {_count(release.cached, 'signature')} from the cache" if release.cached else ""
    say(f"{release.operations} operations of the key{cached}; {seconds:.1f} s.")
    result(str(release.update_path))


def _summary(release: Release, seconds: float) -> dict[str, Any]:
    delta = None
    if release.update.manifest is not None:
        delta = {
            "files": len(release.bodies),
            "bytes": sum(body.size_bytes for body in release.bodies),
            "compressed": sum(body.compressed for body in release.bodies),
            "left_out_empty": release.empty_files,
        }
    return {
        "version": release.update.version,
        "format": release.scheme.value,
        "key": release.key.name,
        "update": str(release.update_path),
        "folder": str(release.path),
        "url": release.update.url,
        "files": release.files,
        "plain_bytes": release.plain_bytes,
        "zip_bytes": release.archive_bytes,
        "delta": delta,
        "operations": release.operations,
        "cached": release.cached,
        "seconds": round(seconds, 3),
    }


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count} bytes"


def _warn_of_urls(base_url: str | None) -> None:
    if not base_url:
        warn(
            "the URLs in update.json are relative, which devices refuse; pass --base-url, or complete them as you serve"
        )
    elif base_url.startswith("http:"):
        warn("devices refuse to load from http: URLs unless their app allows it; serve by https")


_OPEN_EPILOG = """\b
Examples:
  privyseal bundle open public/update.json --public-key public.pem --output opened
  privyseal bundle open public/update.json --public-key public.pem --output opened --zip
"""


@click.command("open", epilog=_OPEN_EPILOG, short_help="Open what `bundle seal` made, as a device does.")
@click.argument("update_path", type=_PATH, metavar="UPDATE_JSON")
@public_key_option
@click.option(
    "--output", type=_PATH, required=True, metavar="DIR", help="Where to write; a folder that is not there yet."
)
@click.option(
    "--base-url",
    metavar="URL",
    help="The URL that the folder of UPDATE_JSON stands for.  [default: as `bundle seal` laid it out]",
)
@click.option("--zip", "archive", is_flag=True, help="Open the zip, though there is a delta.")
def open_(*, update_path: Path, public_key_path: Path, output: Path, base_url: str | None, archive: bool) -> None:
    """Do what a device does with UPDATE_JSON: verify, decrypt and decompress every file, or the zip.

    The files are taken from the folder of UPDATE_JSON, where the URLs lead; nothing is downloaded. No service and no
    private key is needed. DIR appears only when all of it holds.
    """
    from privyseal._files import open_input, reading  # noqa: PLC0415 - help and version need none of it
    from privyseal.errors import InputError  # noqa: PLC0415
    from privyseal.release.opening import LONGEST_UPDATE_BYTES, open_release  # noqa: PLC0415
    from privyseal.release.update import check_base_url, parse_update  # noqa: PLC0415

    public_key = read_public_key(public_key_path)
    with open_input(update_path) as file, reading(update_path):
        data = file.read(LONGEST_UPDATE_BYTES + 1)
    if len(data) > LONGEST_UPDATE_BYTES:
        raise InputError(f"{update_path} is larger than any update.json", remedy="check the path")
    update = parse_update(data)
    folder = update_path.absolute().parent
    # A release's own folder has the same answer as the folder that it is in.
    root = folder.parent if folder.name == update.version and base_url is None else folder
    with Progress(f"Opening {update_path}", 100, wanted=True) as progress:
        opened = open_release(
            update,
            root,
            public_key=public_key,
            output=output,
            base_url=None if base_url is None else check_base_url(base_url),
            archive=archive,
            progress=progress,
        )
    kind = "the zip" if archive or update.manifest is None else "the delta"
    say(f"Verified: {_count(opened.files, 'file')} ({_size(opened.plain_bytes)}) of {kind} of {update.version}.")
    result(str(output))
