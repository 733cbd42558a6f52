"""`privyseal sign`: signatures in the form that an updater wants, and plain ones for everything else."""

from __future__ import annotations

import time
from datetime import UTC
from pathlib import Path

import click

from privyseal._terminal import result, say, warn
from privyseal.commands._job import Job, signing_job
from privyseal.commands._plain import scheme_option, sign_plainly

_FILE = click.Path(path_type=Path)


@click.group(short_help="Sign for other updaters, or any file or digest.")
def sign() -> None:
    """Sign for Expo Updates, Capawesome, hot-updater or CodePush, in the form that each wants, or any file or digest.

    The file stays here: the service signs its SHA-256. Every signature is checked against the service's public key
    before it is written.
    """


_EXPO_EPILOG = """\b
Example:
  privyseal sign expo manifest.json --key my-app --keyid main --certificate code-signing/certificate.pem
"""


@sign.command(epilog=_EXPO_EPILOG, short_help="The expo-signature header of a manifest.")
@click.argument("manifest", type=_FILE, metavar="MANIFEST")
@click.option(
    "--keyid", default="main", show_default=True, metavar="ID", help="The keyid in the app's codeSigningMetadata."
)
@click.option(
    "--certificate",
    type=_FILE,
    metavar="FILE",
    help="The certificate that the app embeds: refuse to sign when it is for another key, or of no use.",
)
@signing_job()
def expo(*, job: Job, manifest: Path, keyid: str, certificate: Path | None) -> None:
    """Sign MANIFEST for Expo Updates, and print the value of its `expo-signature` header.

    MANIFEST holds the body, byte for byte as your update server sends it: a manifest or a directive. In a multipart
    answer the header belongs to the part.
    """
    from datetime import datetime  # noqa: PLC0415 - help and version need none of it
    from hashlib import sha256  # noqa: PLC0415

    from privyseal import updaters  # noqa: PLC0415
    from privyseal._files import read_small  # noqa: PLC0415
    from privyseal.updaters.expo import MOST_BODY_BYTES, check_body, check_certificate, signature_header  # noqa: PLC0415

    signature_header(b"", keyid)  # a key id that fits no header is found before anything is signed
    embedded = None if certificate is None else read_small(certificate)
    body = read_small(manifest, MOST_BODY_BYTES)
    check_body(body)
    with job.signer() as signer:
        if embedded is not None:
            check_certificate(embedded, signer.public_key, datetime.now(UTC))
        result(signature_header(signer.sign(sha256(body).digest(), updaters.SCHEME), keyid))


_CAPAWESOME_EPILOG = """\b
Example:
  privyseal sign capawesome bundle.zip --key my-app
"""


@sign.command(epilog=_CAPAWESOME_EPILOG, short_help="The signature of a Capawesome live update.")
@click.argument("zip_path", type=_FILE, metavar="ZIP")
@signing_job()
def capawesome(*, job: Job, zip_path: Path) -> None:
    """Sign ZIP for Capawesome live update, and print its signature in base64.

    It goes into the `signature` of a self-hosted download, or into its `X-Signature` header. A file of a bundle of the
    type `manifest` is signed in the same way.
    """
    from privyseal import updaters  # noqa: PLC0415 - help and version need none of it
    from privyseal.digests import file_digest  # noqa: PLC0415
    from privyseal.updaters.capawesome import checksum_field, signature_field  # noqa: PLC0415

    digest = file_digest(zip_path)
    with job.signer() as signer:
        signature = signer.sign(digest, updaters.SCHEME)
        say(f"The checksum of {zip_path} is {checksum_field(digest)}.")
        result(signature_field(signature))


_HOT_UPDATER_EPILOG = """\b
Examples:
  privyseal sign hot-updater dist/manifest.json --assets --key my-app
  privyseal sign hot-updater bundle.tar.br --key my-app
"""


@sign.command("hot-updater", epilog=_HOT_UPDATER_EPILOG, short_help="The signed hash of a hot-updater archive.")
@click.argument("file", type=_FILE, metavar="FILE")
@click.option(
    "--assets",
    is_flag=True,
    help="FILE is a manifest.json: sign each asset in it first, and write the signatures into it.",
)
@click.option("--output", type=_FILE, metavar="FILE", help="With --assets, where to write.  [default: the manifest]")
@signing_job()
def hot_updater(*, job: Job, file: Path, assets: bool, output: Path | None) -> None:
    """Sign FILE for hot-updater, and print its signed hash, `sig:…`: the `fileHash` of an archive, the
    `manifestFileHash` of a manifest.

    A manifest is part of its archive: sign its assets first, then pack the archive, then sign that.
    """
    from privyseal import updaters  # noqa: PLC0415 - help and version need none of it
    from privyseal.digests import file_digest  # noqa: PLC0415
    from privyseal.updaters.hot_updater import checksum_to_sign, signed_hash  # noqa: PLC0415

    if output is not None and not assets:
        raise click.UsageError("--output is only for --assets")
    if assets:
        _sign_assets(job, file, output or file)
        return
    digest = checksum_to_sign(file_digest(file))
    with job.signer() as signer:
        result(signed_hash(signer.sign(digest, updaters.SCHEME)))


def _sign_assets(job: Job, manifest_path: Path, output: Path) -> None:
    """Write a manifest with the signatures of its assets, and print its own signed hash."""
    from hashlib import sha256  # noqa: PLC0415

    from privyseal import updaters  # noqa: PLC0415
    from privyseal._files import AtomicOutput, read_small, write_all  # noqa: PLC0415
    from privyseal.updaters.hot_updater import (  # noqa: PLC0415
        MOST_MANIFEST_BYTES,
        checksum_to_sign,
        parse_manifest,
        signed_hash,
    )

    manifest = parse_manifest(read_small(manifest_path, MOST_MANIFEST_BYTES))
    names = list(manifest.file_hashes)
    with AtomicOutput(output) as written, job.signer() as signer:
        checksums = [checksum_to_sign(manifest.file_hashes[name]) for name in names]
        signatures = signer.sign_all(checksums, updaters.SCHEME)
        text = manifest.with_signatures(dict(zip(names, signatures, strict=True))).encode()
        own = signer.sign(checksum_to_sign(sha256(text).digest()), updaters.SCHEME)
        with written.writing():
            write_all(written.file, text)
        written.publish()
        say(f"Signed {len(names)} assets in {output}.")
        result(signed_hash(own))


_CODEPUSH_EPILOG = """\b
Example:
  privyseal sign codepush build/CodePush --key my-app
  appcenter codepush release --app example/my-app --update-contents-path build/CodePush --target-binary-version 1.4.2

\b
`code-push release` of npm's code-push-cli deletes a signature that it did not make: see docs/updaters.md.
"""


@sign.command(epilog=_CODEPUSH_EPILOG, short_help="The signed release file of a CodePush folder.")
@click.argument("folder", type=_FILE, metavar="FOLDER")
@click.option("--output", type=_FILE, metavar="FILE", help="Where to write.  [default: FOLDER/.codepushrelease]")
@signing_job()
def codepush(*, job: Job, folder: Path, output: Path | None) -> None:
    """Sign FOLDER for CodePush: write its `.codepushrelease`, a signed token with the hash of all its files.

    The folder's own name is part of the hash, as it is part of the release; apps made with React Native look for
    `CodePush`.
    """
    from hashlib import sha256  # noqa: PLC0415 - help and version need none of it

    from privyseal import updaters  # noqa: PLC0415
    from privyseal._files import AtomicOutput, write_all  # noqa: PLC0415
    from privyseal.digests import folder_digests  # noqa: PLC0415
    from privyseal.errors import InputError  # noqa: PLC0415
    from privyseal.updaters.codepush import (  # noqa: PLC0415
        FOLDER,
        RELEASE_FILE,
        content_hash,
        is_hashed,
        release,
        signing_input,
    )

    target = output or folder / RELEASE_FILE
    if output is None and target.is_symlink():
        raise InputError(f"{target} is a link, and what it leads to would be overwritten", remedy="remove it")
    digests = folder_digests(folder, is_hashed)
    if not all(name.startswith(f"{FOLDER}/") for name in digests):
        warn(f"{folder} is not called {FOLDER}, where apps made with React Native look for the signature")
    hashed = content_hash(digests)
    to_sign = signing_input(hashed, int(time.time()))
    with AtomicOutput(target) as written, job.signer() as signer:
        token = release(to_sign, signer.sign(sha256(to_sign).digest(), updaters.SCHEME))
        with written.writing():
            write_all(written.file, token)
        written.publish()
        say(f"The content hash of {folder} is {hashed}.")
        result(str(target))


_encoding_option = click.option(
    "--encoding",
    type=click.Choice(["base64", "hex", "raw"]),
    default="base64",
    show_default=True,
    help="How the signature is written; raw is its bytes, without a newline.",
)
_output_option = click.option(
    "--output", type=_FILE, metavar="FILE", help="Where to write.  [default: standard output]"
)

_DIGEST_EPILOG = """\b
Example:
  privyseal sign digest "$(sha256sum app.bin | cut -d' ' -f1)" --scheme rsassa-pss-sha256 --encoding raw > app.sig
"""


@sign.command(epilog=_DIGEST_EPILOG, short_help="Sign a SHA-256.")
@click.argument("digest_hex", metavar="HEX")
@scheme_option
@_encoding_option
@_output_option
@signing_job()
def digest(*, job: Job, digest_hex: str, scheme: str, encoding: str, output: Path | None) -> None:
    """Sign HEX, a SHA-256 of 64 hex characters.

    `privyseal checksum sign` is the same for Capgo's checksums, written as Capgo's API takes them.
    """
    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it

    sign_plainly(job, capgo.parse_plain_checksum(digest_hex, "HEX"), scheme, encoding, output)


_FILE_EPILOG = """\b
Example:
  privyseal sign file app.bin --scheme rsassa-pkcs1-v1_5-sha256 --key releases --encoding raw --output app.sig
  openssl dgst -sha256 -verify public.pem -signature app.sig app.bin
"""


@sign.command(epilog=_FILE_EPILOG, short_help="Sign a file.")
@click.argument("path", type=_FILE, metavar="FILE")
@scheme_option
@_encoding_option
@_output_option
@signing_job()
def file(*, job: Job, path: Path, scheme: str, encoding: str, output: Path | None) -> None:
    """Sign FILE, of any size; only its SHA-256 leaves this machine."""
    from privyseal._files import check_apart  # noqa: PLC0415 - help and version need none of it
    from privyseal.digests import file_digest  # noqa: PLC0415

    if output is not None:
        check_apart(output, [path])
    sign_plainly(job, file_digest(path), scheme, encoding, output)
