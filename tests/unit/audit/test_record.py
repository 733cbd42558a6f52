"""Records: their form, their bounds, and that they follow the published schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privyseal_service.audit.encoder import Encoder
from privyseal_service.audit.layout import head_of
from privyseal_service.audit.record import (
    MAX_LINE_BYTES,
    DenialSummary,
    EndReason,
    Record,
    SegmentEnd,
    SegmentStart,
    Stop,
    format_time,
    parse_time,
)
from privyseal_service.domain.caller import Caller, Proof
from privyseal_service.domain.decisions import NO_PROOF, Outcome
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.domain.replica import Source
from privyseal_service.domain.requests import Context
from tests.support.audit.helpers import CALLER, SOURCE, START_US, decision, encode
from tests.support.audit.json_schema import problems

SCHEMA = json.loads(files("privyseal_service.audit").joinpath("record.schema.json").read_text())

END = SegmentEnd(
    3, EndReason.SYNC_FAILED, 100, 2, "ab" * 32, verified=False, set_aside_bytes=7, set_aside_sha256="cd" * 32
)
TOKEN = Proof("oidc", {"issuer": "https://ci.example", "subject": "repo", "ref": "main"})
TEXT_FIELDS = [
    "request_id",
    "peer",
    "operation",
    "reason",
    "key",
    "key_version",
    "scheme",
    "grant",
    "store_request_id",
]
EXAMPLES = [
    decision(1),
    decision(2, context=Context(), queued_s=None, store_s=None, checksum=None, signature_sha256=None),
    decision(3, outcome=Outcome.DENIED, code=Code.PERMISSION_DENIED, reason="NO_GRANT", caller=Caller("", NO_PROOF)),
    decision(4, caller=Caller("oidc:https://ci.example:repo", TOKEN)),
    decision(
        5,
        operation="wrap-session-key",
        checksum=None,
        wrapped_key_sha256=bytes(32),
        place=7,
        batch=9,
        store_request_id="x",
    ),
    DenialSummary(START_US, "dns:a.example", 17, START_US - 9, START_US - 1, {"sign-checksum PERMISSION_DENIED": 17}),
    SegmentStart(START_US, 4, (END, SegmentEnd(2, EndReason.ROTATED, 50, 1, "ef" * 32))),
    SegmentStart(START_US, 1, ()),
    Stop(START_US),
]

texts = st.text(max_size=8) | st.text(min_size=1, max_size=3).map(lambda piece: piece * 600)
digests = st.none() | st.binary(min_size=32, max_size=32)
proofs = st.just(NO_PROOF) | st.builds(
    lambda issuer, subject, claims: Proof("oidc", {"issuer": issuer, "subject": subject} | claims),
    texts,
    texts,
    st.dictionaries(texts, texts, max_size=14),
)


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: record.kind)
def test_records_follow_the_schema(record):
    line = encode(record, SOURCE, 9)
    assert problems(json.loads(line), SCHEMA) == []
    head = head_of(line)
    assert int(head["n"]) == 9
    assert head["time"].decode() + "Z" == format_time(record.time_us)
    assert (head["replica"], head["worker"], head["kind"]) == (b"replica-1", b"w0", record.kind.encode())
    assert b"\n" not in line


def test_a_decision_reads_as_documented():
    body = json.loads(encode(decision(1), SOURCE, 2))
    assert list(body)[:6] == ["v", "n", "time", "replica", "worker", "kind"]
    assert body["caller"] == {
        "name": "dns:build.demo.example",
        "proof": {"type": "certificate", "fingerprint": "ab" * 32},
    }
    assert body["outcome"] == "answered"
    assert body["queue_s"] == 0.00025
    assert body["time"].startswith("2026-05-28T")


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys(TEXT_FIELDS, texts)),
    st.builds(Caller, texts, proofs),
    st.builds(Context, texts, texts, texts, texts),
    digests,
    st.integers(0, 2**53),
)
def test_whatever_a_caller_sends_becomes_a_record(fields, caller, context, digest, number):
    record = decision(**fields, caller=caller, context=context, checksum=digest)
    line = encode(record, SOURCE, number + 1)
    assert problems(json.loads(line), SCHEMA) == []
    assert head_of(line)


@pytest.mark.parametrize("character", ["\x01", "\U0001f512", "\ud800", '"', "\\"])
def test_the_longest_record_fits_an_entry(character):
    long = character * 2_000
    record = decision(
        **dict.fromkeys(TEXT_FIELDS, long),
        key_fingerprint=long,
        caller=Caller(long, Proof("oidc", {"issuer": long, "subject": long} | {f"{i}{long}": long for i in range(40)})),
        context=Context(long, long, long, long),
        checksum=bytes(32),
        signature_sha256=bytes(32),
        wrapped_key_sha256=bytes(32),
        place=2**40,
    )
    source = Source("r" * 64, "w" * 64)
    assert len(encode(record, source, 10**18)) <= MAX_LINE_BYTES
    summary = DenialSummary(START_US, long, 99, START_US, START_US, {f"{i}{long}": i for i in range(99)})
    assert len(encode(summary, source, 10**18)) <= MAX_LINE_BYTES
    start = SegmentStart(START_US, 1, (END,) * 16)
    assert len(encode(start, source, 10**18)) <= MAX_LINE_BYTES


def test_cut_texts_are_marked():
    body = json.loads(encode(decision(1, key="k" * 300), SOURCE, 2))
    assert len(body["key"]) == 256
    assert body["key"].endswith("k…")


@pytest.mark.parametrize("field", ["checksum", "signature_sha256", "wrapped_key_sha256"])
@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_nothing_but_a_digest_has_a_place(field, length):
    """A session key has 16, 24 or 32 bytes; no field takes one of 16 or 24, and none is meant for one of 32."""
    with pytest.raises(ValueError, match=field):
        encode(decision(1, **{field: bytes(length)}), SOURCE, 1)


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_come_back_and_sort_as_text(time_us):
    text = format_time(time_us)
    assert len(text) == 27
    assert parse_time(text) == time_us
    assert text[:19] == datetime.fromtimestamp(time_us // 10**6, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert (format_time(time_us + 1) if time_us < 253_402_300_799_999_999 else "~") > text


@pytest.mark.parametrize("time_us", [-(10**17), 10**18])
def test_times_out_of_range_are_refused(time_us):
    with pytest.raises(ValueError):
        format_time(time_us)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "ä", "a" * 65, 'a"b'])
def test_names_that_no_worker_may_have(name):
    with pytest.raises(ValueError):
        Source("replica", name)


@pytest.mark.parametrize("end", [END, SegmentEnd(2, EndReason.ROTATED, 50, 1, "ef" * 32)])
def test_ends_come_back(end):
    assert SegmentEnd.from_json(orjson.loads(orjson.dumps(end.to_json()))) == end


@pytest.mark.parametrize(
    "change",
    [
        {"segment": -1},
        {"size_bytes": "7"},
        {"records": True},
        {"reason": "tired"},
        {"verified": "yes"},
        {"records": 1.5},
    ],
)
def test_ends_of_another_form_are_refused(change):
    with pytest.raises(ValueError):
        SegmentEnd.from_json(END.to_json() | change)


def test_the_same_record_is_always_the_same_bytes():
    caller = Caller(CALLER.name, CALLER.proof)
    assert encode(decision(1, caller=caller), SOURCE, 2) == encode(decision(1), SOURCE, 2)


def test_the_fields_come_in_their_order():
    record = decision(1, reason="R", call_id="c", place=7, batch=9, store_request_id='"é', wrapped_key_sha256=bytes(32))
    caller = '{"name":"dns:build.demo.example","proof":{"type":"certificate","fingerprint":"' + "ab" * 32 + '"}}'
    checksum, signature = (sha256(text).hexdigest() for text in (b"bundle 1", b"signature 1"))
    assert encode(record, SOURCE, 3).decode() == (
        '{"v":1,"n":3,"time":"2026-05-28T20:26:40.000001Z","replica":"replica-1","worker":"w0","kind":"decision",'
        f'"request_id":"req-1","caller":{caller},"peer":"ipv4:127.0.0.1:40000","operation":"sign-checksum",'
        '"outcome":"answered","code":"OK","call_id":"c","reason":"R","key":"demo","key_version":"a1b2",'
        f'"key_fingerprint":"{"cd" * 32}","scheme":"capgo-v3","grant":"build farm","store_request_id":"\\"é",'
        f'"checksum":"{checksum}","signature_sha256":"{signature}","wrapped_key_sha256":"{"00" * 32}",'
        '"item":7,"batch":9,"context":{"app_id":"com.example.app","bundle_version":"1.2.3"},'
        '"queue_s":0.00025,"store_s":0.0006}'
    )


def test_what_the_records_of_a_call_share_is_never_another_call_s():
    one, other = decision(1), decision(2, key="other", batch=2, context=Context("com.other"))
    failed = ServiceError(Code.UNAVAILABLE, "KEY_STORE_AWAY", "later")
    records: list[Record] = [
        record._replace(item=record.item._replace(place=i, failure=failure))
        for i, (record, failure) in enumerate(
            [(one, None), (one, failed), (one, None), (other, None), (one, None), (other, failed), (other, failed)]
        )
    ]
    records.insert(3, Stop(START_US))
    encoder = Encoder(SOURCE)
    assert [encoder.line(record, 5) for record in records] == [encode(record, SOURCE, 5) for record in records]
    assert [json.loads(encode(record, SOURCE, 5)).get("code") for record in records] == [
        *("OK", "UNAVAILABLE", "OK", None, "OK", "OK", "UNAVAILABLE", "UNAVAILABLE"),
    ]


def test_the_json_of_a_caller_is_never_another_caller_s():
    encoder = Encoder(SOURCE)
    for number in range(3):
        for name in ("dns:a", "dns:b"):
            record = decision(number, caller=Caller(name, CALLER.proof))
            assert encoder.line(record, 5) == encode(record, SOURCE, 5)


def test_a_call_that_cannot_be_encoded_leaves_nothing_behind():
    encoder, bad = Encoder(SOURCE), decision(1, time_us=10**18)
    encoder.line(decision(2), 1)
    for _ in range(2):
        with pytest.raises(ValueError):
            encoder.line(bad, 2)
    assert encoder.line(decision(3), 2) == encode(decision(3), SOURCE, 2)


def test_the_schema_refuses_what_is_not_in_it():
    body = json.loads(encode(decision(1), SOURCE, 2))
    for change in (
        {"extra": 1},
        {"v": 2},
        {"n": 0},
        {"time": "2026-05-28T20:26:40Z"},
        {"checksum": "AB"},
        {"kind": "stop"},
    ):
        assert problems(body | change, SCHEMA), change
