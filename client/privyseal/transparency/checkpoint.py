"""Checkpoints and their signatures: C2SP tlog-checkpoint, signed-note and (Ed25519) tlog-cosignature. No I/O.

The origin of a log, the first line of its checkpoints, is also the name of the key that signs them.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privyseal.transparency.errors import KeyFileError, NoteError
from privyseal.transparency.merkle import EMPTY_ROOT, HASH_BYTES

MAX_NOTE_BYTES = 256 * 1024
"""More than sixteen signatures of any assigned kind need."""

_PRIVATE_PREFIX = "PRIVATE+KEY+"
_SIGNATURE_LINE = re.compile(r"— (?P<name>[^ \n]+) (?P<data>[A-Za-z0-9+/=]+)")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class SignatureType(enum.IntEnum):
    """The signature types of C2SP signed-note that are understood here."""

    ED25519 = 0x01
    """A log's signature, over the note's text."""
    COSIGNATURE = 0x04
    """A witness's Ed25519 signature with a time (tlog-cosignature)."""


def check_key_name(name: str) -> None:
    """Raise KeyFileError unless `name` can name a key and a log: not empty, no spaces, no plus, nothing unprintable."""
    if not name or "+" in name or not name.isprintable() or any(character.isspace() for character in name):
        raise KeyFileError(
            f"{name!r} cannot name a log; take a URL without scheme, spaces and plus, as audit.example.com/replica-1"
        )


def _decode_base64(text: str) -> bytes:
    """Strict, canonical base64. Raises ValueError."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise binascii.Error("not canonical")
    return data


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name, as its text form (a C2SP vkey) carries them."""

    name: str
    type: SignatureType
    public_key: Ed25519PublicKey

    @property
    def material(self) -> bytes:
        """The signature type's byte and the 32 bytes of the key."""
        return bytes([self.type]) + self.public_key.public_bytes_raw()

    @property
    def key_id(self) -> bytes:
        """4 bytes that, with the name, identify the key that made a signature."""
        return sha256(self.name.encode() + b"\n" + self.material).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self.material).decode()}"

    @staticmethod
    def parse(text: str) -> VerifierKey:
        """Read a vkey. Raises KeyFileError with what is wrong."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        check_key_name(name)
        try:
            data = _decode_base64(encoded)
            key = VerifierKey(name, SignatureType(data[0]), Ed25519PublicKey.from_public_bytes(data[1:]))
        except (ValueError, IndexError):
            raise KeyFileError(
                f"the public key of {name} is not an Ed25519 vkey; give the line NAME+ID+BASE64 that keygen printed"
            ) from None
        if key.key_id.hex() != key_id:
            raise KeyFileError(f"the public key of {name} does not have the id {key_id}; a part of it was changed")
        return key

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether `signature` (without the key's id) is this key's over a note's text."""
        message = text.encode()
        if self.type is SignatureType.COSIGNATURE:
            if len(signature) != 72:
                return False
            time_s, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            message = f"cosignature/v1\ntime {time_s}\n".encode() + message
        try:
            self.public_key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A log's private key with its name. It never shows the key but in `private_text`."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        check_key_name(name)
        self._key = key
        self.verifier = VerifierKey(name, SignatureType.ED25519, key.public_key())

    def __repr__(self) -> str:
        return f"Signer({self.verifier})"

    @staticmethod
    def generate(name: str) -> Signer:
        """A new key."""
        return Signer(name, Ed25519PrivateKey.generate())

    @staticmethod
    def parse(text: str) -> Signer:
        """Read a private key in the form of Go's sumdb/note: PRIVATE+KEY+NAME+ID+BASE64. Raises KeyFileError."""
        problem = KeyFileError("not an audit key; make one with: privyseal-server audit keygen")
        text = text.strip()
        if not text.startswith(_PRIVATE_PREFIX):
            raise problem
        name, _, rest = text.removeprefix(_PRIVATE_PREFIX).partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            data = _decode_base64(encoded)
        except ValueError:
            raise problem from None
        if len(data) != 33 or data[0] != SignatureType.ED25519:
            raise problem
        signer = Signer(name, Ed25519PrivateKey.from_private_bytes(data[1:]))
        if signer.verifier.key_id.hex() != key_id:
            raise KeyFileError("the audit key does not fit its own name and id; a part of it was changed")
        return signer

    def private_text(self) -> str:
        """The private key as `parse` reads it: a secret."""
        data = base64.b64encode(bytes([SignatureType.ED25519]) + self._key.private_bytes_raw()).decode()
        return f"{_PRIVATE_PREFIX}{self.verifier.name}+{self.verifier.key_id.hex()}+{data}"

    def sign(self, text: str) -> bytes:
        """The whole signed note over `text`, which ends in a newline."""
        signature = base64.b64encode(self.verifier.key_id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {self.verifier.name} {signature}\n".encode()


@dataclass(frozen=True)
class NoteSignature:
    """A signature line of a note: the key's name, its id (4 bytes) and the signature."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A note's text, ending in a newline, and its signatures, none of them checked."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @staticmethod
    def parse(data: bytes) -> Note:
        """Read a signed note. Raises NoteError."""
        if len(data) > MAX_NOTE_BYTES:
            raise NoteError(f"a note of {len(data)} bytes is too long")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise NoteError("a note is not UTF-8") from None
        if any(character < " " and character != "\n" for character in whole):
            raise NoteError("a note has a control character")
        text, separator, signatures = whole.rpartition("\n\n")
        if not separator or not signatures.endswith("\n"):
            raise NoteError("a note has no signatures")
        return Note(text + "\n", tuple(_parse_signature(line) for line in signatures[:-1].split("\n")))

    def verified_by(self, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Those of `keys` that signed it; signatures of other keys are ignored.

        Raises NoteError when a signature that names one of `keys` does not verify: then nothing in the note counts.
        """
        found = []
        for key in keys:
            for signature in self.signatures:
                if (signature.name, signature.key_id) != (key.name, key.key_id):
                    continue
                if not key.verifies(self.text, signature.signature):
                    raise NoteError(f"the signature of {key.name} ({key.key_id.hex()}) is wrong")
                if key not in found:
                    found.append(key)
        return found


def _parse_signature(line: str) -> NoteSignature:
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None or "+" in match["name"] or any(character.isspace() for character in match["name"]):
        raise NoteError("a note has a line among its signatures that is none")
    try:
        data = _decode_base64(match["data"])
    except ValueError:
        raise NoteError("a note has a signature that is not base64") from None
    if len(data) < 5:
        raise NoteError("a note has a signature that is too short")
    return NoteSignature(match["name"], data[:4], data[4:])


@dataclass(frozen=True)
class Checkpoint:
    """A tree's head: the log's origin, the number of its entries and its root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @staticmethod
    def parse(text: str) -> Checkpoint:
        """Read a note's text; extension lines are allowed and mean nothing here. Raises NoteError."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines) or not _NUMBER.fullmatch(lines[1]):
            raise NoteError("a note is not a checkpoint: origin, size and root, a line each")
        try:
            root = _decode_base64(lines[2])
        except ValueError:
            root = b""
        if len(root) != HASH_BYTES:
            raise NoteError("a checkpoint's root is not the base64 of 32 bytes")
        checkpoint = Checkpoint(lines[0], int(lines[1]), root)
        if checkpoint.size == 0 and root != EMPTY_ROOT:
            raise NoteError("a checkpoint of the empty tree has another tree's root")
        return checkpoint


def open_checkpoint(data: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Read a checkpoint that one of the log's `keys` has signed. Raises NoteError.

    The key's name must be the origin: another log's checkpoint proves nothing here. Cosignatures are not enough.
    """
    note = Note.parse(data)
    checkpoint = Checkpoint.parse(note.text)
    own = [key for key in keys if key.name == checkpoint.origin and key.type is SignatureType.ED25519]
    if not own:
        raise NoteError(f"no public key is known of the log {checkpoint.origin!r}")
    if not note.verified_by(own):
        raise NoteError(f"the checkpoint of {checkpoint.origin} is signed by none of its known keys")
    return checkpoint


def cosigned_by(data: bytes, witnesses: Sequence[VerifierKey]) -> list[VerifierKey]:
    """Those of `witnesses` that cosigned a checkpoint. Raises NoteError for a wrong cosignature."""
    return Note.parse(data).verified_by(key for key in witnesses if key.type is SignatureType.COSIGNATURE)


def split_notes(data: bytes) -> list[bytes]:
    """The notes in a file that holds one after the other, each perhaps followed by empty lines. Raises NoteError."""
    notes: list[bytes] = []
    begin, lines = 0, data.split(b"\n")
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else b""
        if line.startswith("— ".encode()) and not following.startswith("— ".encode()):
            notes.append(b"\n".join(lines[begin : i + 1]).lstrip(b"\n") + b"\n")
            begin = i + 1
    if b"".join(lines[begin:]).strip():
        raise NoteError("something follows the last checkpoint that is none")
    return notes
