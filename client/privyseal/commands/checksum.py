"""`privyseal checksum`: have a SHA-256 signed."""

from __future__ import annotations

import click

from privyseal.commands._job import Job, signing_job
from privyseal.commands._plain import scheme_option, sign_plainly
from privyseal.model import SignatureScheme

_EPILOG = """\b
Examples:
  privyseal checksum sign "$(sha256sum app.zip | cut -d' ' -f1)" --scheme capgo-v3
  privyseal checksum sign "$DIGEST" --scheme rsassa-pkcs1-v1_5-sha256 --key releases --encoding hex
"""


@click.group()
def checksum() -> None:
    """Sign the checksum of a bundle that you seal by other means."""


@checksum.command(epilog=_EPILOG, short_help="Sign a SHA-256, and print the signature as Capgo's API takes it.")
@click.argument("checksum_hex", metavar="HEX")
@scheme_option
@click.option(
    "--encoding",
    type=click.Choice(["hex", "base64"]),
    help="How the signature is written.  [default: hex for capgo-v3, else base64]",
)
@signing_job()
def sign(*, job: Job, checksum_hex: str, scheme: str, encoding: str | None) -> None:
    """Sign HEX, a SHA-256 of 64 hex characters, and print the signature as Capgo's API takes it.

    The signature is checked against the service's public key before it is printed. For other uses, `privyseal sign
    digest` writes raw bytes or a file too, and `privyseal sign file` computes the SHA-256.
    """
    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it

    digest = capgo.parse_plain_checksum(checksum_hex, "HEX")
    sign_plainly(job, digest, scheme, encoding or ("hex" if scheme == SignatureScheme.CAPGO_V3.value else "base64"))
