"""Finds private keys where none should be: among the files of an app, and on a command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LARGEST_KEY_FILE_BYTES = 64 * 1024


def private_keys(folder: Path) -> Iterator[Path]:
    """Yield the files directly in `folder` that hold a private RSA key, encrypted or not, under any name."""
    for path in sorted(folder.iterdir()):
        with suppress(OSError):  # what this user cannot read, the command cannot sign with
            if path.is_file() and path.stat().st_size <= LARGEST_KEY_FILE_BYTES and is_private_key(path.read_bytes()):
                yield path


def is_private_key(data: bytes) -> bool:
    """Return whether `data` holds a private key in PEM, and not the placeholder or other text between the markers."""
    if b"PRIVATE KEY-----" not in data:
        return False
    try:
        load_pem_private_key(data[data.index(b"-----BEGIN") :], password=None)
    except (ValueError, UnsupportedAlgorithm):
        return False
    except TypeError:
        return True  # encrypted
    return True
