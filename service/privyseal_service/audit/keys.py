"""The file with a log's private key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from privyseal.transparency.checkpoint import Signer, VerifierKey
from privyseal.transparency.errors import KeyFileError
from privyseal_service.system.files import SystemFiles

_MAX_KEY_BYTES = 4_096


def make_key(name: str, path: Path) -> VerifierKey:
    """Make a key for the log `name`, write it to a new file (mode 0600) and return its public key.

    Raises KeyFileError for a name that cannot be, or when the file exists; OSError.
    """
    signer = Signer.generate(name)
    files = SystemFiles()
    try:
        descriptor = files.create(path)
    except FileExistsError:
        raise KeyFileError(f"{path} exists already; nothing is ever replaced") from None
    try:
        files.write(descriptor, signer.private_text().encode() + b"\n")
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.sync_folder(path.absolute().parent)
    return signer.verifier


def load_key(path: Path) -> Signer:
    """Read a log's private key. Raises KeyFileError when it is none or others may read it; OSError.

    What systemd hands over is as private as it can be: its mode shows the access list that lets the service's user in.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"{path} is not a file")
        if found.st_mode & 0o077 and not _is_credential(path):
            raise KeyFileError(f"{path} can be read or changed by others; take that away with chmod 600")
        data = file.read(_MAX_KEY_BYTES)
    try:
        return Signer.parse(data.decode())
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not an audit key") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path} is {error}") from None


def _is_credential(path: Path) -> bool:
    """Whether a file is one of those that systemd handed to this service (systemd.exec(5), LoadCredential)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and path.parent == Path(str(folder))
