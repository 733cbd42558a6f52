"""Receipts: what proves, without the log, that a signature is on record. No I/O.

An answer gives the first half of a receipt: the log, the leaf hash and the position. The second half, once the record
is in the tree, is the record itself with its index, the proof and the checkpoint.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from privyseal.transparency.checkpoint import Checkpoint, Note, VerifierKey, cosigned_by, open_checkpoint
from privyseal.transparency.errors import NoteError, ReceiptError
from privyseal.transparency.merkle import HASH_BYTES, ProofError, leaf_hash, verify_inclusion

VERSION = 1


@dataclass(frozen=True)
class Proven:
    """The second half: the record's line, its index in the tree, the proof (hashes of 32 bytes, from the leaf's sibling
    to the root's child) and the signed checkpoint."""

    record: str
    index: int
    proof: tuple[bytes, ...]
    checkpoint: str


class Receipt(NamedTuple):
    """A record's receipt. `log` is the origin of the log's checkpoints, `leaf_hash` 32 bytes; the position (worker,
    segment, byte, the record's number) is where an operator finds the line, and proves nothing."""

    log: str
    leaf_hash: bytes
    worker: str
    segment: int
    offset: int
    number: int
    proven: Proven | None = None

    def to_json(self) -> dict[str, object]:
        """Its form in a file of receipts."""
        body: dict[str, object] = {
            "log": self.log,
            "leaf_hash": self.leaf_hash.hex(),
            "position": {
                "worker": self.worker,
                "segment": self.segment,
                "offset": self.offset,
                "number": self.number,
            },
        }
        if self.proven is not None:
            body["record"] = self.proven.record
            body["index"] = self.proven.index
            body["proof"] = [base64.b64encode(item).decode() for item in self.proven.proof]
            body["checkpoint"] = self.proven.checkpoint
        return body

    @staticmethod
    def from_json(body: Mapping[str, object]) -> Receipt:
        """The inverse of `to_json`. Raises ReceiptError."""
        position = body.get("position")
        if not isinstance(position, dict):
            raise ReceiptError("a receipt has no position")
        try:
            return Receipt(
                log=_text(body, "log"),
                leaf_hash=bytes.fromhex(_text(body, "leaf_hash")),
                worker=_text(position, "worker"),
                segment=_number(position, "segment"),
                offset=_number(position, "offset"),
                number=_number(position, "number"),
                proven=_proven(body) if "checkpoint" in body else None,
            )
        except ValueError:
            raise ReceiptError("a receipt has a hash that is none") from None


def complete(receipt: Receipt, proven: Proven) -> Receipt:
    """The receipt with its second half, which must fit the first; whether the log's key signed the checkpoint is for
    `check`. Raises ReceiptError and NoteError."""
    checkpoint = Checkpoint.parse(Note.parse(proven.checkpoint.encode(errors="replace")).text)
    _check_place(receipt, proven, checkpoint)
    return receipt._replace(proven=proven)


def _check_place(receipt: Receipt, proven: Proven, checkpoint: Checkpoint) -> None:
    """Raise ReceiptError unless the record is the receipt's, and in the tree of the checkpoint, which is of its log."""
    if checkpoint.origin != receipt.log:
        raise ReceiptError(f"the receipt is of the log {receipt.log}, its checkpoint of {checkpoint.origin}")
    line = proven.record.encode(errors="replace")
    if len(receipt.leaf_hash) != HASH_BYTES or leaf_hash(line) != receipt.leaf_hash:
        raise ReceiptError("the record is not the one whose leaf hash the service gave")
    try:
        verify_inclusion(receipt.leaf_hash, proven.index, checkpoint.size, proven.proof, checkpoint.root)
    except ProofError as error:
        raise ReceiptError(f"the record is not shown to be in the log: {error}") from None


def _text(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise ReceiptError(f"a receipt has no {name}, or one of another type")
    return value


def _number(body: Mapping[str, object], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or value < 0:
        raise ReceiptError(f"a receipt has no {name}, or one of another type")
    return value


def _proven(body: Mapping[str, object]) -> Proven:
    proof = body.get("proof")
    if not isinstance(proof, list) or len(proof) > 64 or not all(isinstance(item, str) for item in proof):
        raise ReceiptError("a receipt has no proof, or one of another type")
    hashes = tuple(base64.b64decode(item, validate=True) for item in proof)
    return Proven(_text(body, "record"), _number(body, "index"), hashes, _text(body, "checkpoint"))


def pack_receipts(receipts: Sequence[Receipt]) -> bytes:
    """A file of receipts: JSON, two-space indented."""
    body = {"privyseal_receipts": VERSION, "receipts": [receipt.to_json() for receipt in receipts]}
    return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"


def parse_receipts(data: bytes) -> list[Receipt]:
    """The receipts in a file. Raises ReceiptError."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ReceiptError("the file is not JSON") from None
    if not isinstance(body, dict) or body.get("privyseal_receipts") != VERSION:
        raise ReceiptError(f"the file does not hold receipts of version {VERSION}")
    receipts = body.get("receipts")
    if not isinstance(receipts, list) or not all(isinstance(receipt, dict) for receipt in receipts):
        raise ReceiptError("the file has no list of receipts")
    return [Receipt.from_json(receipt) for receipt in receipts]


@dataclass(frozen=True)
class OnRecord:
    """What a receipt that holds has proven: the record, its place in which tree, and which witnesses saw that tree."""

    record: Mapping[str, object]
    index: int
    checkpoint: Checkpoint
    witnesses: tuple[VerifierKey, ...]


def check(
    receipt: Receipt,
    keys: Sequence[VerifierKey],
    *,
    signature: bytes | None = None,
    witnesses: Sequence[VerifierKey] = (),
) -> OnRecord:
    """Prove that a receipt's record is in the log of one of `keys` and, with `signature` (or a wrapped key), that the
    record is that signature's. Pure: neither the log nor a server is asked.

    Raises ReceiptError with the part that fails: no proof in it yet, a checkpoint that is not signed by the log's key,
    a record unlike its leaf hash, a proof that does not lead to the checkpoint's root, another signature's record.
    """
    proven = receipt.proven
    if proven is None:
        raise ReceiptError("the receipt has no proof yet; ask the service for it, a second after the signature")
    note = proven.checkpoint.encode(errors="replace")
    try:
        checkpoint = open_checkpoint(note, keys)
        seen = cosigned_by(note, witnesses)
    except NoteError as error:
        raise ReceiptError(f"the checkpoint does not count: {error}") from None
    _check_place(receipt, proven, checkpoint)
    record = _fields(proven.record)
    if signature is not None and not is_record_of(record, signature):
        raise ReceiptError("the record is in the log, but it is that of another signature")
    return OnRecord(record, proven.index, checkpoint, tuple(seen))


def _fields(line: str) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ReceiptError("the record is not a JSON object")
    return record


def is_record_of(record: Mapping[str, object], result: bytes) -> bool:
    """Whether a record is that of a signature or wrapped key that was given. One of an unwrapping has the SHA-256 of
    what its caller sent, whatever that was and whatever became of it: it does not prove who made it."""
    if record.get("outcome") != "answered" or record.get("operation") == "unwrap-session-key":
        return False
    return sha256(result).hexdigest() in (record.get("signature_sha256"), record.get("wrapped_key_sha256"))
