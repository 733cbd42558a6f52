"""AuditService of a running service: what anyone with a name may ask, what is for auditors, and what is neither."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal import Client, SignatureScheme, aio
from privyseal.errors import NotFoundError
from privyseal.model import SignedChecksum
from privyseal.transparency.checkpoint import open_checkpoint
from privyseal.transparency.merkle import leaf_hash, verify_consistency, verify_inclusion
from privyseal.transparency.receipts import Receipt
from privyseal.v1 import audit_pb2 as pb
from privyseal.v1.audit_pb2_grpc import AuditServiceStub
from tests.integration.audit.conftest import AUDITOR, CALLER, LOG, Farm, make_farm
from tests.support.pki import CA
from tests.support.service import secure_channel
from tests.support.serving import Serving

CHECKSUM = hashlib.sha256(b"zip").digest()
TIMEOUT_S = 20.0


@dataclass
class Running:
    farm: Farm
    serving: Serving
    client: Client
    stubs: dict[str, Any]

    def sign(self) -> Receipt:
        """A signature's receipt, once it has a proof."""
        signed = self.client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3)
        assert signed.audit is not None
        return self.client.prove(signed.audit)

    def ask(self, method: str, request: Any, caller: str = CALLER) -> Any:
        return getattr(self.stubs[caller], method)(request, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, audit_ca: CA, audit_private_key: rsa.RSAPrivateKey
) -> Iterator[Running]:
    farm = make_farm(tmp_path_factory.mktemp("service"), audit_ca, audit_private_key)
    with farm.serving() as serving, farm.client(serving) as client:
        channel = partial(secure_channel, serving.address, audit_ca)
        names = (CALLER, AUDITOR, "dns:other.build.example")
        channels = {name: channel(audit_ca.issue(dns=[name.removeprefix("dns:")])) for name in names}
        yield Running(farm, serving, client, {name: AuditServiceStub(each) for name, each in channels.items()})
        for each in channels.values():
            each.close()


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details()


def test_a_receipt_is_proven_within_the_merge_delay(running: Running) -> None:
    receipt = running.sign()
    assert receipt.proven is not None
    checkpoint = open_checkpoint(receipt.proven.checkpoint.encode(), [running.farm.log_key])
    verify_inclusion(receipt.leaf_hash, receipt.proven.index, checkpoint.size, receipt.proven.proof, checkpoint.root)
    assert json.loads(receipt.proven.record)["checksum"] == CHECKSUM.hex()
    assert leaf_hash(receipt.proven.record.encode()) == receipt.leaf_hash


def test_many_receipts_are_proven_in_order_by_both_clients(running: Running) -> None:
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(20)]
    signed = running.client.batch_sign_checksums(digests, scheme=SignatureScheme.CAPGO_V3)
    receipts = [each.audit for each in signed if isinstance(each, SignedChecksum) and each.audit is not None]
    assert running.client.prove_all([]) == []

    async def prove() -> tuple[list[Receipt], list[Receipt]]:
        certificate, key = running.farm.certificate(CALLER)
        ca = running.farm.folder / "ca.pem"
        async with aio.Client(running.serving.address, ca=ca, cert=certificate, cert_key=key) as client:
            proven = await client.prove_all(receipts)
            return proven, await client.prove_all(proven)

    first, again = asyncio.run(prove())
    assert again == first
    for proven in (first, running.client.prove_all(receipts)):
        records = [json.loads(receipt.proven.record) for receipt in proven if receipt.proven is not None]
        assert [record["checksum"] for record in records] == [digest.hex() for digest in digests]
    unknown = receipts[0]._replace(leaf_hash=bytes(32))
    with pytest.raises(NotFoundError):
        running.client.prove_all([*first, unknown], wait_s=0.1)


def test_the_record_is_shown_to_the_caller_that_it_names_and_to_auditors_alone(running: Running) -> None:
    receipt = running.sign()
    request = pb.GetInclusionProofRequest(log_id=LOG, leaf_hash=receipt.leaf_hash)
    lines = {name: running.ask("GetInclusionProof", request, name).line for name in running.stubs}
    assert {name: bool(line) for name, line in lines.items()} == {
        CALLER: True, AUDITOR: True, "dns:other.build.example": False,
    }  # fmt: skip


def test_checkpoints_are_consistent(running: Running) -> None:
    running.sign()
    first = open_checkpoint(
        running.ask("GetCheckpoint", pb.GetCheckpointRequest()).checkpoint.encode(), [running.farm.log_key]
    )
    running.sign()
    answer = running.ask("GetConsistencyProof", pb.GetConsistencyProofRequest(old_size=first.size))
    second = open_checkpoint(answer.checkpoint.encode(), [running.farm.log_key])
    assert second.size > first.size
    verify_consistency(first.size, second.size, list(answer.proof), first.root, second.root)


def test_auditors_list_the_records(running: Running) -> None:
    running.sign()
    listed = running.ask("ListRecords", pb.ListRecordsRequest(page_size=1000, operation="sign-checksum"), AUDITOR)
    assert listed.next_index == listed.size
    assert listed.records
    assert {json.loads(record.line)["operation"] for record in listed.records} == {"sign-checksum"}
    at, seen = 0, 0
    while at < listed.size:
        page = running.ask("ListRecords", pb.ListRecordsRequest(start_index=at, page_size=2), AUDITOR)
        assert [record.index for record in page.records] == list(range(at, at + len(page.records)))
        seen += len(page.records)
        at = page.next_index
    assert seen >= listed.size
    beyond = running.ask("ListRecords", pb.ListRecordsRequest(start_index=10**18), AUDITOR)
    assert (list(beyond.records), beyond.size < 10**6) == ([], True)
    index = listed.records[0].index
    assert running.ask("GetInclusionProof", pb.GetInclusionProofRequest(index=index), AUDITOR).index == index


@pytest.mark.parametrize(
    ("method", "request_", "caller", "code"),
    [
        ("ListRecords", pb.ListRecordsRequest(), CALLER, grpc.StatusCode.PERMISSION_DENIED),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=0), CALLER, grpc.StatusCode.PERMISSION_DENIED),
        ("GetInclusionProof", pb.GetInclusionProofRequest(), CALLER, grpc.StatusCode.INVALID_ARGUMENT),
        ("GetInclusionProof", pb.GetInclusionProofRequest(leaf_hash=b"x"), CALLER, grpc.StatusCode.INVALID_ARGUMENT),
        ("GetInclusionProof", pb.GetInclusionProofRequest(leaf_hash=bytes(32)), CALLER, grpc.StatusCode.NOT_FOUND),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=10**6), AUDITOR, grpc.StatusCode.NOT_FOUND),
        (
            "GetConsistencyProof",
            pb.GetConsistencyProofRequest(old_size=3, size=2),
            CALLER,
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(old_size=10**6), CALLER, grpc.StatusCode.NOT_FOUND),
        ("ListRecords", pb.ListRecordsRequest(page_size=1001), AUDITOR, grpc.StatusCode.INVALID_ARGUMENT),
        ("ListRecords", pb.ListRecordsRequest(outcome="fine"), AUDITOR, grpc.StatusCode.INVALID_ARGUMENT),
        ("GetCheckpoint", pb.GetCheckpointRequest(log_id="another.example"), CALLER, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_what_is_refused(running: Running, method: str, request_: Any, caller: str, code: grpc.StatusCode) -> None:
    assert refusal(lambda: running.ask(method, request_, caller))[0] is code


def test_reading_the_trail_is_on_record_too(running: Running) -> None:
    receipt = running.sign()
    assert receipt.proven is not None
    for _ in range(1000):
        listed = running.ask("ListRecords", pb.ListRecordsRequest(operation="list-records"), AUDITOR)
        if listed.records:
            break
        time.sleep(0.05)
    record = json.loads(listed.records[0].line)
    assert (record["caller"]["name"], record["grant"], record["outcome"]) == (AUDITOR, "auditors", "answered")


def test_files_that_cannot_be_read_are_unavailable_and_no_more_is_said(running: Running) -> None:
    path = running.farm.audit / "log" / "checkpoint"
    before = running.ask("GetCheckpoint", pb.GetCheckpointRequest()).checkpoint
    moved = path.rename(path.with_name("elsewhere"))
    path.mkdir()  # the sequencer cannot replace that either
    try:
        code, said = refusal(lambda: running.ask("GetCheckpoint", pb.GetCheckpointRequest()))
    finally:
        path.rmdir()
        moved.rename(path)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "checkpoint" not in said
    assert str(running.farm.folder) not in said
    assert running.ask("GetCheckpoint", pb.GetCheckpointRequest()).checkpoint.splitlines()[0] == before.splitlines()[0]
