"""Receipts: they prove without the log, and every change to one is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from hashlib import sha256

import pytest

from privyseal.transparency.checkpoint import Signer, VerifierKey
from privyseal.transparency.errors import ReceiptError
from privyseal.transparency.merkle import leaf_hash
from privyseal.transparency.receipts import Proven, Receipt, check, is_record_of, pack_receipts, parse_receipts
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.log_reader import LogReader
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import decision

SIGNER = Signer.generate("audit.example.com/replica-1")
KEYS = [SIGNER.verifier]
SIGNATURE = b"a signature of 256 bytes".ljust(256, b".")
WRAPPED = b"a wrapped key".ljust(256, b".")


@pytest.fixture(scope="module")
def receipts(tmp_path_factory) -> list[Receipt]:
    """What a client holds after two calls and a question a second later."""
    root = tmp_path_factory.mktemp("audit")
    journal = Journal(root, Source("replica-1", "w0"))
    journal.append([decision(i) for i in range(50)])
    written = journal.append(
        [
            decision(90, signature_sha256=sha256(SIGNATURE).digest()),
            decision(
                91, operation="wrap-session-key", signature_sha256=None, wrapped_key_sha256=sha256(WRAPPED).digest()
            ),
        ]
    )
    journal.close()
    sequencer = Sequencer(root, SIGNER)
    sequencer.merge()
    sequencer.close()
    found = []
    for one in written:
        inclusion = LogReader(root).inclusion(leaf=one.leaf_hash)
        proven = Proven(inclusion.record.decode(), inclusion.index, inclusion.proof, inclusion.checkpoint.decode())
        found.append(Receipt(SIGNER.verifier.name, *one, proven))
    return found


def test_a_receipt_proves_its_signature(receipts):
    for receipt, result in zip(receipts, (SIGNATURE, WRAPPED), strict=True):
        on_record = check(receipt, KEYS, signature=result)
        assert on_record.record["grant"] == "build farm"
        assert on_record.checkpoint.size == 54
        assert on_record.index == receipt.proven.index
        assert check(receipt, KEYS).index == on_record.index


def test_files_of_receipts_come_back(receipts):
    half = receipts[0]._replace(proven=None)
    data = pack_receipts([*receipts, half])
    assert parse_receipts(data) == [*receipts, half]
    body = json.loads(data)
    assert body["privyseal_receipts"] == 1
    assert list(body["receipts"][0]) == ["log", "leaf_hash", "position", "record", "index", "proof", "checkpoint"]


def changed(receipt: Receipt, **changes: object) -> Receipt:
    own = {name: changes.pop(name) for name in ("log", "leaf_hash") if name in changes}
    return receipt._replace(proven=dataclasses.replace(receipt.proven, **changes), **own)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r._replace(proven=None), "no proof yet"),
        (lambda r: changed(r, log="audit.example.com/replica-2"), "its checkpoint of"),
        (lambda r: changed(r, leaf_hash=bytes(32)), "not the one whose leaf hash"),
        (lambda r: changed(r, leaf_hash=b""), "not the one whose leaf hash"),
        (
            lambda r: changed(r, record=r.proven.record.replace("build farm", "build_farm")),
            "not the one whose leaf hash",
        ),
        (lambda r: changed(r, record=r.proven.record + "\ud800"), "not the one whose leaf hash"),
        (lambda r: changed(r, index=r.proven.index + 1), "not shown to be in the log"),
        (lambda r: changed(r, index=10**9), "not shown to be in the log"),
        (lambda r: changed(r, proof=r.proven.proof[1:]), "not shown to be in the log"),
        (lambda r: changed(r, proof=(*r.proven.proof, bytes(32))), "not shown to be in the log"),
        (lambda r: changed(r, checkpoint=r.proven.checkpoint.replace("\n54\n", "\n55\n")), "does not count"),
        (lambda r: changed(r, checkpoint=""), "does not count"),
    ],
)
def test_a_changed_receipt_proves_nothing(receipts, change, says):
    with pytest.raises(ReceiptError, match=says):
        check(change(receipts[0]), KEYS)


def test_a_record_that_is_made_up_proves_nothing(receipts):
    """The record of a signature that never was, with a fitting leaf hash and an honest proof of another record."""
    line = receipts[0].proven.record.replace(sha256(SIGNATURE).hexdigest(), sha256(b"forged").hexdigest())
    with pytest.raises(ReceiptError, match="not shown to be in the log"):
        check(changed(receipts[0], record=line, leaf_hash=leaf_hash(line.encode())), KEYS, signature=b"forged")


def test_another_signature_is_not_on_record(receipts):
    with pytest.raises(ReceiptError, match="another signature"):
        check(receipts[0], KEYS, signature=WRAPPED)


@pytest.mark.parametrize(
    ("operation", "outcome"),
    [("unwrap-session-key", "answered"), ("unwrap-session-key", "denied"), ("wrap-session-key", "cancelled")],
)
def test_what_a_caller_sent_or_was_not_given_is_no_result(operation, outcome):
    """Anybody with a name can have the hash of anything on record, by asking for it to be unwrapped."""
    record = {"operation": operation, "outcome": outcome, "wrapped_key_sha256": sha256(WRAPPED).hexdigest()}
    assert not is_record_of(record, WRAPPED)
    assert is_record_of(record | {"operation": "wrap-session-key", "outcome": "answered"}, WRAPPED)


def test_another_logs_key_does_not_count(receipts):
    with pytest.raises(ReceiptError, match="does not count"):
        check(receipts[0], [Signer.generate(SIGNER.verifier.name).verifier])
    with pytest.raises(ReceiptError, match="does not count"):
        check(receipts[0], [VerifierKey.parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")])


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(privyseal_receipts=2),
        lambda body: body.update(receipts={}),
        lambda body: body.update(receipts=["x"]),
        lambda body: body["receipts"][0].pop("position"),
        lambda body: body["receipts"][0].pop("log"),
        lambda body: body["receipts"][0].update(leaf_hash="xyz"),
        lambda body: body["receipts"][0].update(index="1"),
        lambda body: body["receipts"][0].update(index=True),
        lambda body: body["receipts"][0].update(proof="x"),
        lambda body: body["receipts"][0].update(proof=["not base64!"]),
        lambda body: body["receipts"][0].update(proof=["AAAA"] * 65),
        lambda body: body["receipts"][0]["position"].update(offset=-1),
    ],
)
def test_files_of_another_form_are_refused(receipts, change):
    body = json.loads(pack_receipts(receipts))
    change(body)
    with pytest.raises(ReceiptError):
        parse_receipts(json.dumps(body).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"nonsense", b"\xff", pytest.param(b"[" * 100_000, id="nested")])
def test_files_that_are_none_are_refused(data):
    with pytest.raises(ReceiptError):
        parse_receipts(data)


def test_checking_a_receipt_needs_the_standard_library_and_cryptography_alone():
    code = (
        "import sys; import privyseal.transparency.receipts;"
        "print([name for name in ('grpc', 'orjson', 'google', 'pydantic', 'click', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
