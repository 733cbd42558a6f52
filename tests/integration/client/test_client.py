"""The two clients: every verb, errors with all that the service said, deadlines, retries, identity, threads."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

import privyseal
from privyseal import Client, RequestContext, SignatureScheme, WrapScheme, aio, capgo, errors
from privyseal.errors import Code, ConfigurationError, FieldViolation, PrivysealError, ServiceError
from privyseal.model import KeyState, SignedChecksum
from privyseal.signing import CheckedSigner
from privyseal.v1 import signing_pb2
from privyseal.verification import check_signature
from tests.fakes.signing_server import Fault, bad_request, error_info, retry_info, signing_server
from tests.support.capgo_vectors import VECTOR_V3
from tests.support.pki import CA

CHECKSUM = VECTOR_V3.hex("plain_sha256_hex")
CONTEXT = RequestContext("com.example.app", "1.4.2", "c0ffee", "https://ci.example/1")


class Blocking:
    """Runs a verb of the blocking client."""

    def __call__(self, server, verb, *arguments, client=None, **options):
        with Client(server, **(client or {})) as opened:
            return getattr(opened, verb)(*arguments, **options)


class Asynchronous:
    """Runs a verb of the asynchronous client."""

    def __call__(self, server, verb, *arguments, client=None, **options):
        async def run():
            async with aio.Client(server, **(client or {})) as opened:
                return await getattr(opened, verb)(*arguments, **options)

        return asyncio.run(run())


@pytest.fixture(params=[Blocking, Asynchronous], ids=["blocking", "asyncio"])
def call(request):
    return request.param()


@pytest.fixture
def plain(server):
    return f"http://{server.address}"


class TestVerbs:
    def test_wrap(self, call, plain):
        wrapped = call(plain, "wrap_session_key", VECTOR_V3.hex("session_key_hex"), scheme=WrapScheme.CAPGO)
        assert wrapped.wrapped_key == VECTOR_V3.hex("rsa_output_session_key_hex")
        assert (wrapped.key_version, wrapped.request_id) == ("01", "request-0")

    @pytest.mark.parametrize("scheme", SignatureScheme)
    def test_sign(self, call, plain, scheme):
        signed = call(plain, "sign_checksum", CHECKSUM, scheme=scheme)
        public_key = capgo.load_public_key(VECTOR_V3.public_pem.read_bytes())
        check_signature(public_key, scheme, CHECKSUM, signed.signature)
        for other in set(SignatureScheme) - {scheme}:
            with pytest.raises(errors.NotVerifiedError):
                check_signature(public_key, other, CHECKSUM, signed.signature)
        assert (signed.key_version, signed.request_id) == ("01", "request-0")

    def test_schemes_by_their_names(self, call, server, plain):
        call(plain, "sign_checksum", CHECKSUM, scheme="rsassa-pss-sha256")
        call(plain, "batch_sign_checksums", [CHECKSUM], scheme="capgo-v2")
        call(plain, "wrap_session_key", b"s" * 16, scheme="capgo")
        with pytest.raises(ServiceError):
            call(plain, "unwrap_session_key", b"w" * 256, scheme="rsaes-oaep-sha1")
        assert [seen.request.scheme for seen in server.calls] == [
            signing_pb2.SIGNATURE_SCHEME_RSASSA_PSS_SHA256,
            signing_pb2.SIGNATURE_SCHEME_CAPGO_V2,
            signing_pb2.WRAP_SCHEME_CAPGO,
            signing_pb2.WRAP_SCHEME_RSAES_OAEP_SHA1,
        ]

    @pytest.mark.parametrize("scheme", ["capgo", "CAPGO_V3", WrapScheme.CAPGO, None])
    def test_a_scheme_that_is_none(self, call, server, plain, scheme):
        known = "use one of capgo-v2, capgo-v3, rsassa-pkcs1-v1_5-sha256, rsassa-pss-sha256"
        says = re.escape(f"there is no scheme {scheme!r} for this; {known}")
        with pytest.raises(errors.InputError, match=says):
            call(plain, "sign_checksum", CHECKSUM, scheme=scheme)
        with pytest.raises(errors.InputError, match=says):
            call(plain, "batch_sign_checksums", [], scheme=scheme)
        with pytest.raises(errors.InputError, match="use one of capgo, rsaes-oaep-sha256, rsaes-oaep-sha1"):
            call(plain, "wrap_session_key", b"s" * 16, scheme="capgo-v3")
        with pytest.raises(errors.InputError, match="there is no scheme 'oaep' for this"):
            call(plain, "unwrap_session_key", b"w" * 256, scheme="oaep")
        assert server.calls == []

    def test_unwrap(self, call, server, plain):
        oaep = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
        wrapped = server.key.public_key().encrypt(b"s" * 32, oaep)
        opened = call(plain, "unwrap_session_key", wrapped, scheme=WrapScheme.RSAES_OAEP_SHA256)
        assert opened.session_key == b"s" * 32
        assert "ssss" not in repr(opened)

    def test_keys(self, call, plain):
        (listed,) = call(plain, "list_keys")
        shown = call(plain, "get_key", "demo")
        assert listed == shown
        assert (shown.name, shown.state, shown.key_version) == ("demo", KeyState.SERVING, "01")
        assert shown.wrap_schemes == (WrapScheme.CAPGO,)
        assert shown.signature_schemes == (SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3)
        assert shown.public_key.pkcs1_pem == VECTOR_V3.public_pem.read_text()
        assert shown.public_key.capgo_key_id == VECTOR_V3.facts["key_id"]
        assert shown.custody.protection.value == "software"
        assert shown.custody.origin.value == "imported"
        assert shown.custody.export.value == "possible"
        assert shown.custody.export.reasons == ("anybody can read the file",)
        assert shown.custody.evidence[0].name == "CKA_SENSITIVE"

    def test_key_that_was_not_opened(self, call, server, plain):
        server.show_public_key = False
        shown = call(plain, "get_key")
        assert (shown.public_key, shown.custody, shown.key_version) == (None, None, "")

    @pytest.mark.parametrize("size", [0, 1, 2000, 4001])
    def test_batch(self, call, server, plain, size, monkeypatch):
        monkeypatch.setattr(server, "type1", lambda data: data)  # four thousand signatures would take two seconds
        checksums = [sha256(str(n).encode()).digest() for n in range(size)]
        results = call(plain, "batch_sign_checksums", checksums, scheme=SignatureScheme.CAPGO_V3)
        assert [result.signature for result in results] == checksums
        assert [len(c.request.checksums) for c in server.calls] == [2000] * (size // 2000) + [size % 2000] * bool(
            size % 2000
        )

    def test_batch_with_an_error_in_it(self, call, server, plain, monkeypatch):
        # So that the deadline allows no other try.
        monkeypatch.setattr("privyseal._retry._FIRST_PAUSE_WHEN_BUSY_S", 8.0)
        server.batch_errors[1] = (Code.RESOURCE_EXHAUSTED, "too much at once.")
        server.batch_errors[2] = (99, "")
        options = {"scheme": SignatureScheme.CAPGO_V3}
        results = call(plain, "batch_sign_checksums", [CHECKSUM] * 4, timeout_s=5, **options)
        assert [type(result) for result in results] == [
            SignedChecksum,
            errors.ThrottledError,
            errors.ServiceFaultError,
            SignedChecksum,
        ]
        assert (results[1].message, results[1].request_id) == ("too much at once", "request-0")

    def test_what_a_batch_may_get_in_a_moment_is_asked_for_again(self, call, server, plain):
        checksums = [bytes([number]) * 32 for number in range(4)]
        server.batch_errors |= {1: (Code.UNAVAILABLE, "away"), 3: (Code.RESOURCE_EXHAUSTED, "too much")}

        def well_the_second_time(method):
            if len(server.calls) == 2:
                server.batch_errors.clear()

        server.before = well_the_second_time
        results = call(plain, "batch_sign_checksums", checksums, scheme=SignatureScheme.CAPGO_V3)
        assert [type(result) for result in results] == [SignedChecksum] * 4
        assert [list(seen.request.checksums) for seen in server.calls] == [checksums, [checksums[1], checksums[3]]]
        assert [result.request_id for result in results] == ["request-0", "request-1"] * 2

    def test_what_a_batch_got_is_kept_when_the_rest_cannot_be_had(self, call, server, plain):
        server.batch_errors[1] = (Code.UNAVAILABLE, "away")
        server.fail("BatchSignChecksums", Fault(), Fault(grpc.StatusCode.PERMISSION_DENIED))
        results = call(plain, "batch_sign_checksums", [CHECKSUM] * 2, scheme=SignatureScheme.CAPGO_V3)
        assert [type(result) for result in results] == [SignedChecksum, errors.UnavailableError]

    def test_batch_that_is_answered_in_part(self, call, server, plain):
        server.batch_lost = 1
        with pytest.raises(errors.ServiceFaultError, match="answered 2 of 3"):
            call(plain, "batch_sign_checksums", [CHECKSUM] * 3, scheme=SignatureScheme.CAPGO_V3)

    def test_key_and_context(self, call, server, plain):
        options = {"scheme": SignatureScheme.CAPGO_V3}
        call(plain, "sign_checksum", CHECKSUM, **options, client={"key": "demo", "context": CONTEXT})
        other = RequestContext(app_id="other")
        call(plain, "sign_checksum", CHECKSUM, **options, key="x", context=other, client={"context": CONTEXT})
        call(plain, "sign_checksum", CHECKSUM, **options)
        first, second, third = (seen.request for seen in server.calls)
        assert (first.key, first.context.app_id, first.context.build_url) == (
            "demo",
            "com.example.app",
            CONTEXT.build_url,
        )
        assert (first.context.bundle_version, first.context.source_revision) == ("1.4.2", "c0ffee")
        assert (second.key, second.context.app_id, second.context.build_url) == ("x", "other", "")
        assert (third.key, third.HasField("context")) == ("", False)

    def test_user_agent(self, call, server, plain):
        call(plain, "list_keys")
        assert server.calls[0].metadata["user-agent"].startswith(f"privyseal/{privyseal.__version__} ")

    def test_a_checked_signer(self, server, plain):
        with Client(plain) as client:
            signer = CheckedSigner(client)
            assert len(signer.sign(CHECKSUM, SignatureScheme.RSASSA_PSS_SHA256)) == 256
            server.corrupt |= {"SignChecksum", "BatchSignChecksums"}
            with pytest.raises(errors.NotVerifiedError):
                signer.sign(CHECKSUM, SignatureScheme.RSASSA_PSS_SHA256)
            with pytest.raises(errors.NotVerifiedError):
                signer.sign_all([CHECKSUM] * 2, SignatureScheme.RSASSA_PKCS1_V1_5_SHA256)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError),
            (grpc.StatusCode.OUT_OF_RANGE, errors.InvalidRequestError),
            (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
            (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
            (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPreconditionError),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ThrottledError),
            (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
            (grpc.StatusCode.CANCELLED, errors.InterruptedCallError),
            (grpc.StatusCode.ABORTED, errors.InterruptedCallError),
            (grpc.StatusCode.INTERNAL, errors.ServiceFaultError),
            (grpc.StatusCode.UNKNOWN, errors.ServiceFaultError),
            (grpc.StatusCode.UNIMPLEMENTED, errors.ServiceFaultError),
            (grpc.StatusCode.DATA_LOSS, errors.ServiceFaultError),
            (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        ],
    )
    def test_families(self, call, server, plain, code, kind):
        tried_again = code is grpc.StatusCode.CANCELLED
        server.fail("GetKey", *[Fault(code, "so it is.")] * 5)
        with pytest.raises(ServiceError) as caught:
            call(plain, "get_key")
        assert type(caught.value) is kind
        assert caught.value.code.name == code.name
        tries = 5 if tried_again else 1
        assert (caught.value.message, caught.value.request_id) == ("so it is", f"request-{tries - 1}")
        assert len(server.calls) == tries

    def test_details(self, call, server, plain):
        details = (
            bad_request("session_key", "must be 16 bytes for capgo, not 15"),
            error_info("SESSION_KEY_LENGTH", key="demo"),
            retry_info(1.5),
        )
        server.fail("GetKey", Fault(grpc.StatusCode.INVALID_ARGUMENT, "the request does not fit", details))
        with pytest.raises(errors.InvalidRequestError) as caught:
            call(plain, "get_key")
        found = caught.value.details
        assert found.field_violations == (FieldViolation("session_key", "must be 16 bytes for capgo, not 15"),)
        assert (found.reason, found.domain, dict(found.metadata)) == (
            "SESSION_KEY_LENGTH",
            "privyseal",
            {"key": "demo"},
        )
        assert found.retry_after_s == 1.5
        assert str(caught.value) == "the request does not fit; session_key must be 16 bytes for capgo, not 15"

    @pytest.mark.parametrize(
        ("code", "message", "details", "says"),
        [
            (
                grpc.StatusCode.INVALID_ARGUMENT,
                "name must name one of the keys that you may use: a, b",
                (
                    bad_request("name", "must name one of the keys that you may use: a, b"),
                    error_info("INVALID_REQUEST"),
                ),
                "name must name one of the keys that you may use: a, b",
            ),
            (
                grpc.StatusCode.PERMISSION_DENIED,
                "no grant allows this; ask for one",
                (error_info("NO_GRANT"),),
                "no grant allows this; ask for one; check the key's name with `privyseal key list`",
            ),
            (
                grpc.StatusCode.PERMISSION_DENIED,
                "the grant holds at other times; ask when",
                (error_info("OUTSIDE_HOURS"),),
                "the grant holds at other times; ask when",
            ),
            (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the store has too much to do; try again later",
                (error_info("KEY_STORE_BUSY"), retry_info(30)),
                "the store has too much to do; try again in 30.0 s",
            ),
            (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the grant allows 5; ask for less in one call",
                (error_info("LIMIT_REACHED"), retry_info(30)),
                "the grant allows 5; ask for less in one call",
            ),
            (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "the deadline passed; allow the call more time",
                (error_info("DEADLINE"),),
                "the deadline passed; allow the call more time",
            ),
        ],
        ids=lambda value: value.name if isinstance(value, grpc.StatusCode) else "",
    )
    def test_nothing_is_said_twice(self, call, server, plain, code, message, details, says):
        server.fail("GetKey", Fault(code, message, details))
        with pytest.raises(errors.ServiceError) as caught:
            call(plain, "get_key")
        assert str(caught.value) == says

    def test_retry_info_is_the_remedy(self, call, server, plain):
        server.fail("GetKey", Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", (retry_info(30.25),)))
        with pytest.raises(errors.ThrottledError, match=r"too much; try again in 30\.2 s"):
            call(plain, "get_key")
        assert len(server.calls) == 1

    def test_control_characters_do_not_reach_a_terminal(self, call, server, plain):
        server.fail("GetKey", Fault(grpc.StatusCode.INTERNAL, "a\x1b[2Jb\r\nc"))
        with pytest.raises(errors.ServiceFaultError) as caught:
            call(plain, "get_key")
        assert caught.value.message == "a [2Jb c"

    def test_every_class_has_a_family(self):
        assert all(issubclass(errors.family(code), ServiceError) for code in Code)

    def test_fields_that_do_not_fit_are_errors_of_the_caller(self, call, plain):
        with pytest.raises(TypeError):
            call(plain, "sign_checksum", "not bytes", scheme=SignatureScheme.CAPGO_V3)


class TestChannels:
    def test_calls_go_over_all_connections(self, server, plain):
        with Client(plain, channels=3) as client:
            for _ in range(6):
                client.list_keys()
        assert len(peers(server)) == 3

    @pytest.mark.parametrize(("size", "parts"), [(1, [1]), (64, [64]), (1000, [84] * 11 + [76])])
    def test_a_batch_is_split_over_them_and_keeps_its_order(self, call, server, plain, size, parts, monkeypatch):
        monkeypatch.setattr(server, "type1", lambda data: data)
        checksums = [sha256(str(n).encode()).digest() for n in range(size)]
        options = {"scheme": SignatureScheme.CAPGO_V3, "client": {"channels": 3}}
        results = call(plain, "batch_sign_checksums", checksums, **options)
        assert [result.signature for result in results] == checksums
        assert sorted(len(seen.request.checksums) for seen in server.calls) == sorted(parts)
        assert len(peers(server)) == min(3, len(parts))

    def test_a_connection_that_is_quicker_takes_more_of_a_batch(self, call, server, plain, monkeypatch):
        monkeypatch.setattr(server, "type1", lambda data: data)
        first, all_came = threading.Lock(), threading.Event()

        def before(method):
            if len(server.calls) == 8:
                all_came.set()
            if first.acquire(blocking=False):
                assert all_came.wait(20)

        server.before = before
        checksums = [sha256(str(n).encode()).digest() for n in range(512)]
        options = {"scheme": SignatureScheme.CAPGO_V3, "client": {"channels": 2}}
        results = call(plain, "batch_sign_checksums", checksums, **options)
        assert [result.signature for result in results] == checksums
        assert sorted(Counter(seen.peer for seen in server.calls).values()) == [1, 7]

    def test_a_batch_waits_for_a_connection_no_longer_than_its_time(self, plain):
        options = {"scheme": SignatureScheme.CAPGO_V3, "timeout_s": 0.2}
        with Client(plain, channels=2) as client:
            taken = [client._free.get() for _ in range(2)]
            with pytest.raises(errors.DeadlineExceededError):
                client.batch_sign_checksums([CHECKSUM] * 300, **options)
            for channel in taken:
                client._free.put(channel)
            assert len(client.batch_sign_checksums([CHECKSUM] * 300, scheme=SignatureScheme.CAPGO_V3)) == 300

    def test_a_batch_that_ends_early_gives_its_connections_back(self, server, plain):
        async def run():
            options = {"scheme": SignatureScheme.CAPGO_V3}
            async with aio.Client(plain, channels=2) as client:
                taken = [await client._free.get() for _ in range(2)]
                with pytest.raises(errors.DeadlineExceededError):
                    await client.batch_sign_checksums([CHECKSUM] * 300, timeout_s=0.2, **options)
                for channel in taken:
                    client._free.put_nowait(channel)
                server.fail("BatchSignChecksums", Fault(delay_s=20))
                waiting = asyncio.ensure_future(client.batch_sign_checksums([CHECKSUM] * 1000, **options))
                await asyncio.to_thread(server.wait_for, "BatchSignChecksums")
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await asyncio.sleep(0)
                return client._free.qsize()

        assert asyncio.run(run()) == 2

    def test_a_part_that_fails_fails_the_batch(self, call, server, plain):
        server.fail("BatchSignChecksums", Fault(grpc.StatusCode.PERMISSION_DENIED, "no grant"))
        options = {"scheme": SignatureScheme.CAPGO_V3, "client": {"channels": 2}}
        with pytest.raises(errors.PermissionDeniedError, match="no grant"):
            call(plain, "batch_sign_checksums", [CHECKSUM] * 300, **options)

    @pytest.mark.parametrize("channels", [0, -1, 65])
    def test_a_number_that_is_none(self, plain, channels):
        with pytest.raises(ConfigurationError, match="give 1 to 64"):
            Client(plain, channels=channels)

    def test_a_name_that_is_looked_up_by_grpc(self, call, server):
        port = server.address.rpartition(":")[2]
        assert call(f"dns:///127.0.0.1:{port}", "list_keys", client={"insecure": True})

    @pytest.mark.parametrize(("before_the_name", "reached"), [("dns:///", 2), ("", 1)])
    def test_calls_go_round_the_addresses_of_a_name(self, server, monkeypatch, before_the_name, reached):
        with signing_server(VECTOR_V3.private_pem) as other:
            both = f"ipv4:{server.address},{other.address}"  # in place of what a name server says
            opened = grpc.insecure_channel
            monkeypatch.setattr(grpc, "insecure_channel", lambda _, options: opened(both, options))
            with Client(f"{before_the_name}localhost:1", insecure=True) as client:
                for _ in range(500):
                    client.list_keys()
                    if server.calls and other.calls:
                        break
            assert bool(server.calls) + bool(other.calls) == reached

    @pytest.mark.parametrize(
        "server_name",
        ["dns:///", "dns:///host", "dns://8.8.8.8/host:1", "dns:///a/b:1", "host:0", "host:65536", "a\udcff:1"],
    )
    def test_addresses_that_are_none(self, server_name):
        with pytest.raises(ConfigurationError):
            Client(server_name)


class TestText:
    def test_what_is_no_utf_8_is_not_sent(self, call, server, plain):
        with pytest.raises(errors.InputError, match="the key's name is not UTF-8; write it in UTF-8"):
            call(plain, "get_key", "demo\udcff")
        context = RequestContext(app_id="app\udcff")
        with pytest.raises(errors.InputError, match="the context's app_id is not UTF-8"):
            call(plain, "sign_checksum", CHECKSUM, scheme=SignatureScheme.CAPGO_V3, context=context)
        assert server.calls == []
        with pytest.raises(errors.PermissionDeniedError, match="no such key"):
            call(plain, "get_key", "démo")


def peers(server):
    return {seen.peer for seen in server.calls}


class TestRetriesAndDeadlines:
    def test_unavailable_then_well(self, call, server, plain):
        server.fail("SignChecksum", *[Fault(grpc.StatusCode.UNAVAILABLE)] * 2)
        signed = call(plain, "sign_checksum", CHECKSUM, scheme=SignatureScheme.CAPGO_V3)
        assert signed.signature == VECTOR_V3.hex("rsa_output_checksum_hex")
        assert signed.request_id == "request-2"

    def test_cancelled_by_the_server_then_well(self, call, server, plain):
        server.fail("SignChecksum", *[Fault(grpc.StatusCode.CANCELLED)] * 2)
        signed = call(plain, "sign_checksum", CHECKSUM, scheme=SignatureScheme.CAPGO_V3)
        assert signed.request_id == "request-2"

    def test_what_the_caller_cancels_is_not_tried_again(self, server, plain):
        async def run():
            async with aio.Client(plain) as client:
                server.fail("SignChecksum", Fault(delay_s=30))
                task = asyncio.create_task(client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3))
                await asyncio.to_thread(server.wait_for, "SignChecksum")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await client.list_keys()
                await asyncio.sleep(0.5)

        asyncio.run(run())
        assert server.methods() == ["SignChecksum", "ListKeys"]

    def test_unavailable_for_good(self, call, server, plain):
        server.fail("GetKey", *[Fault(grpc.StatusCode.UNAVAILABLE, "the key store is away", (retry_info(30),))] * 9)
        with pytest.raises(errors.UnavailableError, match=r"the key store is away; try again in 30\.0 s"):
            call(plain, "get_key")
        assert len(server.calls) == 5

    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
    def test_a_service_that_says_when_to_come_again_is_asked_until_the_deadline(self, call, server, plain, code):
        faults = 7 if code is grpc.StatusCode.UNAVAILABLE else 2
        server.fail("GetKey", *[Fault(code, "come again", (retry_info(0.05),))] * faults)
        assert call(plain, "get_key").name == "demo"
        (call_id,) = {seen.metadata["privyseal-call-id"] for seen in server.calls}
        assert re.fullmatch("[0-9a-f]{32}", call_id)
        assert len(server.calls) == faults + 1

    def test_a_deadline_tells_why_the_call_was_not_served_before(self, call, server, plain):
        server.fail(
            "GetKey", Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", (retry_info(0.05),)), Fault(delay_s=30)
        )
        with pytest.raises(errors.ThrottledError, match="too much"):
            call(plain, "get_key", timeout_s=1)
        assert len(server.calls) == 2

    def test_a_service_that_has_answered_once_is_waited_for(self, call, server, plain):
        with Client(plain) as client:
            client.list_keys()
            server.fail("GetKey", *[Fault(grpc.StatusCode.UNAVAILABLE, "")] * 7)
            assert client.get_key().name == "demo"
        first, *rest = (seen.metadata["privyseal-call-id"] for seen in server.calls)
        assert first not in rest

    def test_deadline(self, call, server, plain):
        server.fail("GetKey", Fault(delay_s=30))
        with pytest.raises(errors.DeadlineExceededError, match="did not answer in time"):
            call(plain, "get_key", timeout_s=0.2)

    def test_every_call_has_a_deadline(self, call, server, plain):
        call(plain, "list_keys")
        call(plain, "list_keys", client={"timeout_s": 7})
        call(plain, "batch_sign_checksums", [CHECKSUM], scheme=SignatureScheme.CAPGO_V3)
        assert [round(seen.remaining_s, -1) for seen in server.calls] == [20, 10, 20]

    @pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e9])
    def test_no_time(self, call, plain, timeout_s):
        with pytest.raises(ConfigurationError, match="give seconds above zero, a day at most"):
            call(plain, "list_keys", timeout_s=timeout_s)

    def test_nobody_listens(self, call):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))  # bound and not listening: nothing else can take the port meanwhile
            address = f"127.0.0.1:{held.getsockname()[1]}"
            with pytest.raises(errors.UnavailableError, match=f"{address} cannot be reached: nothing listens there"):
                call(f"http://{address}", "get_key")

    def test_service_that_starts_late(self, call):
        door = socket.create_server(("127.0.0.1", 0))
        port = door.getsockname()[1]
        started = threading.Event()

        def serve():
            # The first connection is shut at once; whoever comes back finds the service.
            with door:
                door.accept()[0].close()
            with signing_server(VECTOR_V3.private_pem, port=port):
                started.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert call(f"http://127.0.0.1:{port}", "get_key").name == "demo"
        finally:
            started.set()
            thread.join()


class TestIdentity:
    def test_mutual_tls(self, call, pki, mutual_server):
        client = {"ca": pki.ca, "cert": str(pki.cert), "cert_key": pki.cert_key}
        assert call(mutual_server.address, "get_key", client=client).name == "demo"

    def test_no_client_certificate(self, pki, mutual_server):
        with pytest.raises(errors.UnavailableError, match="client certificate if the service wants one"):
            Blocking()(mutual_server.address, "get_key", client={"ca": pki.ca})

    @pytest.mark.parametrize(
        ("end", "says"),
        [
            (
                datetime(2026, 5, 1, 12, 30, tzinfo=UTC),
                "expired.pem expired at 2026-05-01 12:30 UTC; renew it",
            ),
            (None, "client certificate if the service wants one"),
        ],
    )
    def test_a_certificate_that_the_service_does_not_take(self, tmp_path, pki, mutual_server, end, says):
        other = CA("Other CA").issue(dns=["build.example"], not_before=end and end - timedelta(days=9), not_after=end)
        cert, cert_key = other.write(tmp_path, "expired")
        with pytest.raises(errors.UnavailableError, match=says):
            Blocking()(mutual_server.address, "get_key", client={"ca": pki.ca, "cert": cert, "cert_key": cert_key})

    def test_wrong_ca(self, tmp_path, tls_server):
        other = CA("Other CA").write(tmp_path)
        with pytest.raises(errors.UnavailableError, match="not signed by a trusted CA; check --ca"):
            Blocking()(tls_server.address, "get_key", client={"ca": other})

    def test_system_roots(self, pki, tls_server, monkeypatch):
        with pytest.raises(errors.UnavailableError, match="not signed by a trusted CA"):
            Blocking()(tls_server.address, "get_key")
        monkeypatch.setenv("SSL_CERT_FILE", str(pki.ca))
        assert Blocking()(tls_server.address, "get_key").name == "demo"

    def test_another_name(self, pki):
        authority = CA()
        (pki.folder / "named-ca.pem").write_bytes(authority.pem)
        served = authority.issue(dns=["signing.example"], usages=None)
        credentials = grpc.ssl_server_credentials([(served.key_pem, served.chain_pem)])
        ca = pki.folder / "named-ca.pem"
        with (
            signing_server(VECTOR_V3.private_pem, credentials=credentials) as running,
            pytest.raises(errors.UnavailableError, match="certificate is for another name"),
        ):
            Blocking()(running.address, "get_key", client={"ca": ca})

    def test_not_tls(self, pki, server):
        with pytest.raises(errors.UnavailableError, match="does not speak TLS"):
            Blocking()(server.address, "get_key", client={"ca": pki.ca})

    def test_token(self, call, pki, tls_server):
        call(tls_server.address, "get_key", client={"ca": pki.ca, "token": "abc.def-1"})
        assert tls_server.calls[0].metadata["authorization"] == "Bearer abc.def-1"

    def test_token_file_is_read_again(self, pki, tls_server, tmp_path):
        file = tmp_path / "token"
        with pytest.raises(errors.FileUnusableError), Client(tls_server.address, ca=pki.ca, token_file=file) as client:
            client.get_key()
        file.write_text("first\n")
        with Client(tls_server.address, ca=pki.ca, token_file=file) as client:
            client.get_key()
            file.write_text("second\n")
            client.get_key()
        assert [seen.metadata["authorization"] for seen in tls_server.calls] == ["Bearer first", "Bearer second"]

    def test_token_command(self, call, pki, tls_server, tmp_path):
        script = tmp_path / "give token.py"
        script.write_text(f"open({str(tmp_path / 'runs')!r}, 'a').write('x'); print('from-a-command')")
        command = f"{sys.executable} '{script}'"
        client = {"ca": pki.ca, "token_command": command}

        call(tls_server.address, "get_key", client=client)
        assert tls_server.calls[0].metadata["authorization"] == "Bearer from-a-command"
        with Client(tls_server.address, **client) as opened:
            opened.get_key()
            opened.get_key()
        assert (tmp_path / "runs").read_text() == "xx"

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            ("/nonexistent/command", "cannot be run"),
            (f"{sys.executable} -c 'raise SystemExit(3)'", "ended with 3"),
            (f"{sys.executable} -c pass", "no bearer token"),
            (f"{sys.executable} -c 'print(1, 2)'", "no bearer token"),
            ("", "empty"),
            ("'", "cannot be read"),
        ],
    )
    def test_token_command_that_fails(self, call, pki, tls_server, command, says):
        with pytest.raises(ConfigurationError, match=says):
            call(tls_server.address, "get_key", client={"ca": pki.ca, "token_command": command})

    def test_slow_token_command(self, pki, tls_server, monkeypatch):
        monkeypatch.setattr("privyseal._tokens.COMMAND_TIMEOUT_S", 0.1)
        command = f"{sys.executable} -c 'import time; time.sleep(60)'"
        client = Client(tls_server.address, ca=pki.ca, token_command=command)
        with client, pytest.raises(ConfigurationError, match="gave no token"):
            client.get_key()

    @pytest.mark.parametrize("token", ["", "a b", "a\nb", "schlüssel", "a\r\nx-other: b"])
    def test_what_is_no_token(self, call, pki, token):
        with pytest.raises(ConfigurationError, match="no bearer token") as caught:
            call("localhost:1", "get_key", client={"ca": pki.ca, "token": token})
        assert not token or token not in str(caught.value)

    def test_token_is_not_shown(self, pki):
        with Client("localhost:1", ca=pki.ca, token="hush-hush") as client:
            assert "hush" not in repr(client)
            assert "hush" not in repr(vars(client))

    @pytest.mark.parametrize("kind", [{"token": "x"}, {"token_file": "x"}, {"token_command": "x"}])
    def test_token_without_tls(self, call, server, kind):
        with pytest.raises(ConfigurationError, match="token is sent over TLS only"):
            call(server.address, "get_key", client={"insecure": True, **kind})
        assert server.calls == []

    @pytest.mark.parametrize("address", ["signing.example:443", "10.0.0.1:443", "0.0.0.0:443", "[::]:443"])
    def test_no_tls_beyond_loopback(self, call, address):
        with pytest.raises(ConfigurationError, match="without TLS is refused"):
            call(address, "get_key", client={"insecure": True})
        with pytest.raises(ConfigurationError, match="without TLS is refused"):
            call(f"http://{address}", "get_key")

    @pytest.mark.parametrize(
        "address",
        ["", "host", "host:", ":443", "host:port", "http://", "ftp://a:1", "a/b:1", "::1:443", "https://a:1/b"],
    )
    def test_what_is_no_address(self, call, address):
        with pytest.raises(ConfigurationError, match="not an address"):
            call(address, "get_key")

    def test_proxy_is_not_for_loopback(self, call, server, plain, monkeypatch):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        assert call(plain, "get_key").name == "demo"

    def test_certificate_files(self, call, pki, tmp_path):
        def attempt(**client):
            with pytest.raises(PrivysealError) as caught:
                call("localhost:1", "get_key", client={"ca": pki.ca, **client})
            return str(caught.value)

        other_key = CA().issue(dns=["x"]).write(tmp_path, "other")[1]
        assert "no private key in PEM" in attempt(cert=pki.cert, cert_key=pki.cert)
        assert "no certificate in PEM" in attempt(cert=pki.cert_key, cert_key=pki.cert_key)
        assert "not a certificate and its private key" in attempt(cert=pki.cert, cert_key=other_key)
        assert "needs both" in attempt(cert=pki.cert)
        assert "needs both" in attempt(cert_key=pki.cert_key)
        assert "set together" in attempt(cert=pki.cert, cert_key=pki.cert_key, token="x")
        assert "set together" in attempt(token="x", token_file="y")
        assert "no such file" in attempt(cert=pki.cert, cert_key=tmp_path / "none")
        assert "no such file" in attempt(ca=tmp_path / "none")
        assert "no certificate in PEM" in attempt(ca=pki.cert_key)


class TestLife:
    def test_closed(self, plain):
        client = Client(plain)
        client.close()
        with pytest.raises(PrivysealError, match="closed"):
            client.get_key()

    def test_closed_asyncio(self, plain):
        async def run():
            client = aio.Client(plain)
            await client.close()
            with pytest.raises(PrivysealError, match="closed"):
                await client.get_key()

        asyncio.run(run())

    def test_forked(self, plain, monkeypatch):
        with Client(plain) as client:
            monkeypatch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(PrivysealError, match="before a fork"):
                client.get_key()

    def test_cancelled_task(self, server, plain):
        async def run():
            async with aio.Client(plain) as client:
                server.fail("GetKey", Fault(delay_s=30))
                task = asyncio.create_task(client.get_key())
                await asyncio.to_thread(server.wait_for, "GetKey")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                return await client.get_key()

        assert asyncio.run(run()).name == "demo"

    def test_eight_threads_one_client(self, plain):
        failures = []

        def work(client, number):
            checksum = sha256(bytes([number])).digest()
            expected = client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3).signature
            try:
                for _ in range(25):
                    assert client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3).signature == expected
                    assert client.get_key().name == "demo"
            except BaseException as error:
                failures.append(error)

        with Client(plain) as client:
            threads = [threading.Thread(target=work, args=(client, number)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == []

    def test_many_tasks_one_client(self, plain):
        async def run():
            async with aio.Client(plain) as client:
                calls = [client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3) for _ in range(50)]
                return {signed.signature for signed in await asyncio.gather(*calls)}

        assert asyncio.run(run()) == {VECTOR_V3.hex("rsa_output_checksum_hex")}

    def test_from_environment(self, plain, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.setenv("PRIVYSEAL_SERVER", plain)
        monkeypatch.setenv("PRIVYSEAL_KEY", "another")
        with Client.from_environment() as client, pytest.raises(errors.PermissionDeniedError):
            client.get_key()
        with Client.from_environment(key="demo") as client:
            assert client.get_key().name == "demo"
        monkeypatch.delenv("PRIVYSEAL_SERVER")
        with pytest.raises(ConfigurationError, match="no signing service is named"):
            Client.from_environment()


class TestPackage:
    def test_names(self):
        assert privyseal.Client is Client
        for name in privyseal.__all__:
            assert getattr(privyseal, name) is not None
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = privyseal.nothing
