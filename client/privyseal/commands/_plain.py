"""What the commands share that sign a SHA-256 with nothing around the signature."""

from __future__ import annotations

import base64
import errno
import os
import sys
from pathlib import Path

import click

from privyseal.commands._job import Job
from privyseal.model import SignatureScheme

scheme_option = click.option(
    "--scheme", type=click.Choice([s.value for s in SignatureScheme]), required=True, help="How it is signed."
)


def sign_plainly(job: Job, checksum: bytes, scheme: str, encoding: str, output: Path | None = None) -> None:
    """Sign a checksum of 32 bytes, and write the signature in `encoding` (hex, base64 or raw) to the file, or to
    standard output."""
    from privyseal._files import AtomicOutput, write_all  # noqa: PLC0415

    if output is None:
        if encoding == "raw" and sys.stdout is not None and sys.stdout.isatty():
            raise click.UsageError(
                "raw bytes would spoil the terminal: add --output FILE, or choose another --encoding"
            )
        with job.signer() as signer:
            _print(_encoded(signer.sign(checksum, SignatureScheme(scheme)), encoding))
        return
    with AtomicOutput(output) as written, job.signer() as signer:
        signature = signer.sign(checksum, SignatureScheme(scheme))
        with written.writing():
            write_all(written.file, _encoded(signature, encoding))
        written.publish()


def _encoded(signature: bytes, encoding: str) -> bytes:
    if encoding == "raw":
        return signature
    text = signature.hex() if encoding == "hex" else base64.b64encode(signature).decode()
    return f"{text}\n".encode()


def _print(data: bytes) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
