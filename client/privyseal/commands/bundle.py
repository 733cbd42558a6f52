"""`privyseal bundle`: seal a zip, and open a sealed one as a device does."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal._terminal import Progress, result, say
from privyseal.commands._connection import connection_options, key_option, open_client, settings_from
from privyseal.commands._context import bundle_version_option, context_from, record_options
from privyseal.commands._formats import format_options, public_key_option, read_public_key, scheme_of
from privyseal.commands._receipts import keeping_receipts, receipt_option
from privyseal.commands.release import open_, seal
from privyseal.errors import ConfigurationError, WriteError

if TYPE_CHECKING:
    from privyseal._client import Client
    from privyseal.sealing import SealedBundle


@click.group()
def bundle() -> None:
    """Seal bundles and open them."""


bundle.add_command(seal)
bundle.add_command(open_)

_ENCRYPT_EPILOG = """\b
Examples:
  privyseal bundle encrypt app.zip
  privyseal bundle encrypt app.zip --key my-app --format capgo-v3 --json > sealed.json
  privyseal bundle encrypt app.zip "$CHECKSUM" --output dist/app.sealed.zip --app-id com.example.app
  privyseal bundle encrypt app.zip --json --receipt receipts.json > sealed.json
"""


def _refuse_key_data(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise ConfigurationError(
            "--key-data holds a private key, and this command takes none",
            remedy="pass --key NAME, the name of a key at the signing service",
        )


@bundle.command(epilog=_ENCRYPT_EPILOG, short_help="Encrypt a zip, wrap its session key, sign its checksum.")
@click.argument("zip_path", metavar="ZIP")
@click.argument("checksum", metavar="[CHECKSUM]", required=False)
@key_option
@connection_options
@format_options
@click.option("--output", metavar="FILE", help="Where to write.  [default: ZIP with _encrypted.zip after it]")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the result as `capgo bundle encrypt --json` does.")
@bundle_version_option
@record_options
@receipt_option
@click.option("--key-data", hidden=True, expose_value=False, callback=_refuse_key_data)
def encrypt(
    *,
    zip_path: str,
    checksum: str | None,
    key: str | None,
    bundle_format: str | None,
    package_json: str | None,
    output: str | None,
    as_json: bool,
    app_id: str | None,
    bundle_version: str | None,
    revision: str | None,
    build_url: str | None,
    receipt: Path | None,
    timeout_s: float,
    **connection: Any,
) -> None:
    """Encrypt ZIP, and have its session key wrapped and its checksum signed.

    A drop-in for `capgo bundle encrypt`: the same files, the same JSON. The checksum is computed from the zip; a
    CHECKSUM (64 hex characters) that differs is an error. The output appears only after the answers of the service
    were checked against its public key, and not at all when the result cannot be printed (exit code 1).
    """
    settings = settings_from(connection, key=key, bundle_format=bundle_format)
    settings.require_connection()
    scheme = scheme_of(settings.format, package_json)

    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it
    from privyseal._files import reason  # noqa: PLC0415
    from privyseal.sealing import seal_bundle  # noqa: PLC0415

    context = context_from(app_id, bundle_version, revision, build_url)
    # The name is the argument with a suffix, as Capgo's CLI writes it, and not a tidied path.
    filename = output or f"{zip_path}_encrypted.zip"
    expected = capgo.parse_plain_checksum(checksum) if checksum is not None else None
    with ExitStack() as stack:
        keeper = stack.enter_context(keeping_receipts(receipt, [Path(zip_path), Path(filename)]))

        def open_signer() -> Client:
            keeper.client = stack.enter_context(open_client(settings, timeout_s, context))
            return keeper.client

        def deliver(sealed: SealedBundle) -> None:
            answer = {"checksum": sealed.checksum, "filename": filename, "ivSessionKey": sealed.iv_session_key}
            lines = "\n".join(f"{name}: {value}" for name, value in answer.items())
            progress.finish()
            try:
                result(json.dumps(answer, indent=2, ensure_ascii=False) if as_json else lines)
            except OSError as error:
                raise WriteError(
                    f"standard output cannot be written ({reason(error)}), so {filename} was not written either",
                    remedy="seal again",
                ) from None

        with Progress(f"Sealing {zip_path}", _size(zip_path), wanted=not as_json) as progress:
            sealed = seal_bundle(
                open_signer,
                Path(zip_path),
                scheme=scheme,
                key=settings.key,
                output=Path(filename),
                expected_checksum=expected,
                progress=progress,
                require_receipts=receipt is not None,
                deliver=deliver,
            )
        if not as_json:
            say(f"Sealed {zip_path} ({sealed.size_bytes} bytes) as {scheme.value} with the key {sealed.key.name}.")
        keeper.keep(sealed.receipts)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0


_DECRYPT_EPILOG = """\b
Example:
  privyseal bundle decrypt app.zip_encrypted.zip "$IV_SESSION_KEY" --public-key public.pem --checksum "$CHECKSUM"
"""


@bundle.command(epilog=_DECRYPT_EPILOG, short_help="Decrypt and verify, as a device does.")
@click.argument("encrypted_path", metavar="ENCRYPTED")
@click.argument("iv_session_key", metavar="IV_SESSION_KEY")
@public_key_option
@click.option("--checksum", required=True, metavar="CHECKSUM", help="The checksum that `bundle encrypt` printed.")
@click.option("--output", metavar="FILE", help="Where to write.  [default: ENCRYPTED with _decrypted.zip after it]")
def decrypt(
    *, encrypted_path: str, iv_session_key: str, public_key_path: Path, checksum: str, output: str | None
) -> None:
    """Do what a device does: recover the session key, decrypt, and verify the checksum.

    No service and no private key is needed. The plain zip appears only when all of it holds.
    """
    from privyseal.opening import open_bundle  # noqa: PLC0415 - help and version need none of it

    public_key = read_public_key(public_key_path)
    filename = output or f"{encrypted_path}_decrypted.zip"
    with Progress(f"Opening {encrypted_path}", _size(encrypted_path), wanted=True) as progress:
        plain_checksum = open_bundle(
            Path(encrypted_path),
            iv_session_key=iv_session_key,
            checksum=checksum,
            public_key=public_key,
            output=Path(filename),
            progress=progress,
        )
    say(f"Verified: the SHA-256 of the zip is {plain_checksum.hex()}.")
    result(filename)
