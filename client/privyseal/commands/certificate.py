"""`privyseal key certificate`: a certificate, or a request for one, signed by the key itself in its key store."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import click

from privyseal._terminal import result, say
from privyseal.commands._connection import refuse_key_file
from privyseal.commands._job import Job, signing_job

_EPILOG = """\b
Examples:
  privyseal key certificate my-app --code-signing --subject "CN=Example App" --days 3650 > certificate.pem
  privyseal key certificate my-app --code-signing --subject "CN=Example App,O=Example" --csr --output my-app.csr
"""


@click.command(epilog=_EPILOG, short_help="Make a code-signing certificate for a key.")
@click.argument("name", required=False)
@click.option("--code-signing", is_flag=True, help="What it is for: digitalSignature and codeSigning. Required.")
@click.option("--subject", required=True, metavar="NAME", help='Whom it names, as in "CN=Example App,O=Example".')
@click.option("--days", type=click.IntRange(1, 36_500), metavar="DAYS", help="How long it is valid, from now.")
@click.option("--csr", is_flag=True, help="Make a request that a CA can sign, not a self-signed certificate.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write.  [default: standard output]"
)
@signing_job(with_key=False)
def certificate(
    *, job: Job, name: str | None, code_signing: bool, subject: str, days: int | None, csr: bool, output: Path | None
) -> None:
    """Make a self-signed X.509 certificate for the key NAME, in PEM, as Expo Updates wants it in an app.

    It is signed by the key itself, so the key must be one for rsassa-pkcs1-v1_5-sha256. Without NAME, the key of the
    configuration, else the only one that you may use.
    """
    from datetime import datetime  # noqa: PLC0415 - help and version need none of it

    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    from privyseal import certificates  # noqa: PLC0415
    from privyseal._files import AtomicOutput, write_all  # noqa: PLC0415

    if not code_signing:
        raise click.UsageError("add --code-signing: it is the only use that there is")
    if csr == (days is not None):
        raise click.UsageError("pass --days for a certificate, or --csr for a request, which has none")
    refuse_key_file(name)
    named = certificates.parse_subject(subject)
    now = datetime.now(UTC).replace(microsecond=0)
    with job.signer(name) as signer:
        made = (
            certificates.code_signing_request(signer, named)
            if days is None
            else certificates.code_signing_certificate(signer, named, not_before=now, days=days)
        )
        pem = made.public_bytes(Encoding.PEM)
        if output is None:
            result(pem.decode().rstrip("\n"))
        else:
            with AtomicOutput(output) as written:
                with written.writing():
                    write_all(written.file, pem)
                written.publish()
            say(f"Wrote {output}.")
