"""`privyseal checksum`: have a SHA-256 signed."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import click

from privyseal._terminal import result
from privyseal.commands._connection import connection_options, key_option, open_client, settings_from
from privyseal.commands._receipts import keeping_receipts, receipt_option
from privyseal.model import SignatureScheme

_EPILOG = """\b
Examples:
  privyseal checksum sign "$(sha256sum app.zip | cut -d' ' -f1)" --scheme capgo-v3
  privyseal checksum sign "$DIGEST" --scheme rsassa-pkcs1-v1_5-sha256 --key releases --encoding hex
"""


@click.group()
def checksum() -> None:
    """Sign checksums."""


@checksum.command(epilog=_EPILOG, short_help="Sign a SHA-256 and print the signature.")
@click.argument("checksum_hex", metavar="HEX")
@click.option(
    "--scheme", type=click.Choice([s.value for s in SignatureScheme]), required=True, help="How it is signed."
)
@click.option(
    "--encoding",
    type=click.Choice(["hex", "base64"]),
    help="How the signature is written.  [default: hex for capgo-v3, else base64]",
)
@key_option
@receipt_option
@connection_options
def sign(
    *,
    checksum_hex: str,
    scheme: str,
    encoding: str | None,
    key: str | None,
    receipt: Path | None,
    timeout_s: float,
    **connection: Any,
) -> None:
    """Sign HEX, a SHA-256 of 64 hex characters, and print the signature.

    The signature is checked against the service's public key before it is printed.
    """
    from privyseal import capgo, ci  # noqa: PLC0415 - help and version need none of it
    from privyseal.verification import no_receipts, sign_and_check  # noqa: PLC0415

    digest = capgo.parse_plain_checksum(checksum_hex, "HEX")
    settings = settings_from(connection, key=key)
    chosen = SignatureScheme(scheme)
    encoding = encoding or ("hex" if chosen is SignatureScheme.CAPGO_V3 else "base64")
    with keeping_receipts(receipt) as keeper, open_client(settings, timeout_s, ci.context_from(os.environ)) as client:
        keeper.client = client
        signed = sign_and_check(client, digest, scheme=chosen, key=settings.key)
        if receipt is not None and signed.audit is None:
            raise no_receipts()
        result(signed.signature.hex() if encoding == "hex" else base64.b64encode(signed.signature).decode())
        keeper.keep([signed.audit] if signed.audit is not None else [])
