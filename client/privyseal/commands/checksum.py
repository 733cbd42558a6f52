"""`privyseal checksum`: have a SHA-256 signed."""

from __future__ import annotations

import base64

import click

from privyseal._terminal import result
from privyseal.commands._job import Job, signing_job
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
@signing_job()
def sign(*, job: Job, checksum_hex: str, scheme: str, encoding: str | None) -> None:
    """Sign HEX, a SHA-256 of 64 hex characters, and print the signature.

    The signature is checked against the service's public key before it is printed.
    """
    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it

    digest = capgo.parse_plain_checksum(checksum_hex, "HEX")
    chosen = SignatureScheme(scheme)
    encoding = encoding or ("hex" if chosen is SignatureScheme.CAPGO_V3 else "base64")
    with job.signer() as signer:
        signature = signer.sign(digest, chosen)
        result(signature.hex() if encoding == "hex" else base64.b64encode(signature).decode())
