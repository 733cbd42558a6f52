"""The service's decisions on their way to the disk: what each becomes, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from privyseal.transparency.merkle import leaf_hash
from privyseal_service.audit.journal import open_journal
from privyseal_service.audit.layout import Layout, segment_numbers, segment_path
from privyseal_service.audit.recorder import AuditRecorder
from privyseal_service.config.audit import AuditConfig
from privyseal_service.domain.caller import Caller, Proof
from privyseal_service.domain.decisions import Decision, DecisionBuilder, Item, Outcome
from privyseal_service.domain.errors import Code, ServiceError, permission_denied
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.requests import Context
from tests.support.audit.helpers import FaultyFiles, fail_on, no_fault

PROOF = Proof("mtls", {"certificate": "ab" * 32, "serial": "7", "authority": "cd" * 32})
CHECKSUM = hashlib.sha256(b"zip").digest()
DIGEST = hashlib.sha256(b"signature").digest()
BUSY = ServiceError(Code.RESOURCE_EXHAUSTED, "KEY_STORE_BUSY", "later")


def config(folder: Path, **more: object) -> AuditConfig:
    return AuditConfig(folder=folder, log="audit.example.com/replica-1", key=folder / "key", **more)  # type: ignore[arg-type]


def decision(**changes: object) -> Decision:
    builder = DecisionBuilder(
        request_id="id-1", peer="ipv4:127.0.0.1:1", operation=Operation.SIGN_CHECKSUM, key="app", scheme="capgo-v3"
    )
    builder.set_caller(Caller("dns:build.example", PROOF))
    return builder.build(Outcome.ANSWERED, Code.OK)._replace(**changes)  # type: ignore[arg-type]


def denied(caller: str = "dns:build.example", **changes: object) -> Decision:
    return decision(caller=caller, outcome=Outcome.DENIED, code=Code.PERMISSION_DENIED, reason="NO_GRANT", **changes)


def lines(folder: Path) -> list[bytes]:
    """The whole lines: one may be just being written."""
    worker = Layout(folder).worker("w0")
    segments = [segment_path(worker, number).read_bytes() for number in segment_numbers(worker)]
    return [line for data in segments for line in data.split(b"\n")[:-1]]


def records(folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in lines(folder)]
    return [record for record in found if record["kind"] not in ("segment", "stop")]


Use = Callable[[AuditRecorder], Awaitable[None]]


def is_ready(recorder: AuditRecorder) -> bool:
    try:
        recorder.require_ready()
    except ServiceError:
        return False
    return True


def run(folder: Path, use: Use, *, files: FaultyFiles | None = None) -> list[bool]:
    """Use a recorder from its start to its end; what it told of whether records can be written."""
    told: list[bool] = []

    async def work() -> None:
        recorder = AuditRecorder(config(folder), open_with=partial(open_journal, files=files or FaultyFiles()))
        await recorder.start(told.append)
        try:
            await use(recorder)
        finally:
            await recorder.close()
            await recorder.close()

    asyncio.run(work())
    return told


def test_an_answered_call_and_its_receipt(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        recorder.require_ready()
        item = Item(CHECKSUM, signature_sha256=DIGEST, store_request_id="call-1", queued_s=0.5, store_s=0.25)
        (receipt,) = await recorder.record(
            decision(
                items=(item,),
                grant="farm",
                key_version="01",
                key_fingerprint="ef" * 32,
                context=Context(app_id="com.example"),
            )
        )
        line = next(line for line in lines(tmp_path) if leaf_hash(line) == receipt.leaf_hash)
        assert json.loads(line) | {"time": ""} == {
            "v": 1, "n": 2, "time": "", "replica": "replica-1", "worker": "w0", "kind": "decision",
            "request_id": "id-1",
            "caller": {"name": "dns:build.example", "proof": {"type": "certificate", "fingerprint": "ab" * 32}},
            "peer": "ipv4:127.0.0.1:1", "operation": "sign-checksum", "outcome": "answered", "code": "OK",
            "key": "app", "key_version": "01", "key_fingerprint": "ef" * 32, "scheme": "capgo-v3", "grant": "farm",
            "store_request_id": "call-1", "checksum": CHECKSUM.hex(), "signature_sha256": DIGEST.hex(),
            "context": {"app_id": "com.example"}, "queue_s": 0.5, "store_s": 0.25,
        }  # fmt: skip
        assert (receipt.log, receipt.worker, receipt.number) == ("audit.example.com/replica-1", "w0", 2)
        data = segment_path(Layout(tmp_path).worker("w0"), receipt.segment).read_bytes()
        assert data[receipt.offset :].startswith(line + b"\n")

    assert run(tmp_path, use) == []


def test_a_token_and_its_claims(tmp_path: Path) -> None:
    proof = Proof("oidc", {"issuer": "https://ci.example", "subject": "repo", "ref": "main"})

    async def use(recorder: AuditRecorder) -> None:
        await recorder.record(decision(caller="oidc:https://ci.example:repo", proof=proof))

    run(tmp_path, use)
    assert records(tmp_path)[0]["caller"] == {
        "name": "oidc:https://ci.example:repo",
        "proof": {"type": "token", "issuer": "https://ci.example", "subject": "repo", "claims": {"ref": "main"}},
    }


def test_each_of_a_batch_has_a_record(tmp_path: Path) -> None:
    """Also where it is more than share one write, with the failure of each beside the signatures."""
    items = tuple(
        Item(CHECKSUM, failure=BUSY) if i % 3 else Item(CHECKSUM, signature_sha256=DIGEST) for i in range(600)
    )

    async def use(recorder: AuditRecorder) -> None:
        receipts = await recorder.record(decision(batch=600, items=items))
        assert [receipt.number for receipt in receipts] == list(range(2, 602))

    run(tmp_path, use)
    found = records(tmp_path)
    assert [(record["item"], record["batch"]) for record in found] == [(i, 600) for i in range(600)]
    assert {(record["outcome"], record["code"], "signature_sha256" in record) for record in found[1::3]} == {
        ("failed", "RESOURCE_EXHAUSTED", False)
    }
    assert {(record["outcome"], record["code"], record["signature_sha256"]) for record in found[::3]} == {
        ("answered", "OK", DIGEST.hex())
    }


def test_a_batch_that_is_recorded_in_parts_has_each_record_once(tmp_path: Path) -> None:
    items = [Item(CHECKSUM, signature_sha256=DIGEST, place=place) for place in range(100)]

    async def use(recorder: AuditRecorder) -> None:
        for start in (64, 0):
            receipts = await recorder.record_part(decision(batch=100, items=tuple(items[start : start + 64])))
            assert len(receipts) == min(64, 100 - start)
        assert await recorder.record(decision(batch=100, items_recorded=True)) == ()

    run(tmp_path, use)
    assert [record["item"] for record in records(tmp_path)] == [*range(64, 100), *range(64)]


def test_a_batch_that_no_key_saw_has_one_record(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        assert len(await recorder.record(denied(batch=2000))) == 1

    run(tmp_path, use)
    (record,) = records(tmp_path)
    assert (record["outcome"], record["batch"], "item" in record) == ("denied", 2000, False)


def test_no_result_is_on_record_that_did_not_leave(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        item = Item(CHECKSUM, signature_sha256=DIGEST)
        await recorder.record(decision(outcome=Outcome.CANCELLED, code=Code.CANCELLED, items=(item,)))
        wrapped = Item(wrapped_key_sha256=DIGEST)
        await recorder.record(decision(outcome=Outcome.CANCELLED, operation="wrap-session-key", items=(wrapped,)))
        await recorder.record(decision(outcome=Outcome.CANCELLED, operation="unwrap-session-key", items=(wrapped,)))

    run(tmp_path, use)
    found = records(tmp_path)
    assert ["signature_sha256" in record or "wrapped_key_sha256" in record for record in found] == [False, False, True]


def test_a_checksum_that_is_none_does_not_keep_its_refusal_off_the_record(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        await recorder.record(denied(items=(Item(b"x" * 5000),)))

    run(tmp_path, use)
    (record,) = records(tmp_path)
    assert "checksum" not in record


def test_a_flood_of_denials_is_counted_and_none_is_lost(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        for _ in range(500):
            await recorder.record(denied())
        await recorder.record(denied("dns:other.example"))

    run(tmp_path, use)
    found = records(tmp_path)
    alone = [record for record in found if record["kind"] == "decision"]
    summaries = [record for record in found if record["kind"] == "denials"]
    assert 21 <= len(alone) < 500
    assert {record["caller"]["name"] for record in summaries} == {"dns:build.example"}  # type: ignore[index]
    assert len(alone) + sum(record["count"] for record in summaries) == 501  # type: ignore[misc]
    assert {name for record in summaries for name in record["counts"]} == {"sign-checksum PERMISSION_DENIED"}  # type: ignore[attr-defined]


def test_refusals_for_want_of_room_may_be_counted_and_nothing_that_used_a_key(tmp_path: Path) -> None:
    busy = {"outcome": Outcome.FAILED, "code": Code.RESOURCE_EXHAUSTED, "reason": "KEY_STORE_BUSY"}

    async def use(recorder: AuditRecorder) -> None:
        for _ in range(100):
            await recorder.record(decision(**busy))
            await recorder.record(decision(**busy, signatures=1))

    run(tmp_path, use)
    found = records(tmp_path)
    summaries = [record for record in found if record["kind"] == "denials"]
    assert 120 <= len(found) - len(summaries) < 200
    assert len(found) - len(summaries) + sum(record["count"] for record in summaries) == 200  # type: ignore[misc]
    assert {name for record in summaries for name in record["counts"]} == {"sign-checksum RESOURCE_EXHAUSTED"}  # type: ignore[attr-defined]


def test_answers_and_failures_are_never_counted_only(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        for outcome in (Outcome.ANSWERED, Outcome.FAILED, Outcome.CANCELLED):
            await asyncio.gather(*(recorder.record(decision(outcome=outcome)) for _ in range(60)))

    run(tmp_path, use)
    assert len(records(tmp_path)) == 180


@pytest.mark.parametrize("verb", ["write", "sync"])
def test_nothing_is_let_through_while_records_are_not_safe(tmp_path: Path, verb: str) -> None:
    files = FaultyFiles()

    async def use(recorder: AuditRecorder) -> None:
        await recorder.record(decision())
        files.fault = fail_on(verb)
        with pytest.raises(ServiceError, match="audit trail") as refused:
            await recorder.record(decision())
        assert (refused.value.code, refused.value.reason) == (Code.UNAVAILABLE, "AUDIT_UNAVAILABLE")
        assert refused.value.retry_after_s == 1.0
        assert not is_ready(recorder)
        for _ in range(30):  # denials that are only counted are no way round it
            with pytest.raises(ServiceError, match="audit trail"):
                await recorder.record(denied())
        files.fault = no_fault
        while not is_ready(recorder):
            await asyncio.sleep(0.01)
        await recorder.record(decision())

    assert run(tmp_path, use, files=files) == [False, True]


def test_a_batch_is_recorded_whole_though_its_caller_goes(tmp_path: Path) -> None:
    async def use(recorder: AuditRecorder) -> None:
        items = (Item(CHECKSUM, signature_sha256=DIGEST),) * 1000
        call = asyncio.create_task(recorder.record(decision(batch=1000, items=items)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while len(records(tmp_path)) < 1000:
            await asyncio.sleep(0.01)

    run(tmp_path, use)
    assert len(records(tmp_path)) == 1000


def test_a_denial_says_why(tmp_path: Path) -> None:
    builder = DecisionBuilder(request_id="id-2", peer="ipv4:127.0.0.1:1", operation=Operation.SIGN_CHECKSUM)

    async def use(recorder: AuditRecorder) -> None:
        await recorder.record(builder.build_failed(permission_denied()))

    run(tmp_path, use)
    (record,) = records(tmp_path)
    assert (record["outcome"], record["code"], record["reason"]) == ("denied", "PERMISSION_DENIED", "NO_GRANT")
    assert record["caller"] == {"name": ""}
