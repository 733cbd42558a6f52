"""Listeners, health, reflection, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from privyseal.v1 import keys_pb2 as keys_pb
from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_service.api.health import Health
from privyseal_service.api.tls import TlsError
from privyseal_service.config.errors import ConfigError
from privyseal_service.keys.served_key import KeyState, ServedKey
from privyseal_service.system.sockets import ListenError
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import BUILD, Farm, farm_config, farm_store
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, DAY, SERVER
from tests.support.refusals import Refusal, refused
from tests.support.service import RunningService, secure_channel

SIGN = pb.SignChecksumRequest(
    key="capgo", checksum=hashlib.sha256(b"zip").digest(), scheme=pb.SIGNATURE_SCHEME_CAPGO_V3
)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def store(rsa_key: rsa.RSAPrivateKey) -> SoftwareStore:
    return farm_store(rsa_key)


@pytest.fixture
def config(ca: CA, tmp_path: Path) -> dict[str, Any]:
    return farm_config(ca, tmp_path)


@pytest.fixture
def running(config: dict[str, Any], store: SoftwareStore) -> Iterator[RunningService]:
    with RunningService(config, store.backends) as running:
        yield running


@pytest.fixture
def channel(running: RunningService, ca: CA) -> Iterator[grpc.Channel]:
    with secure_channel(running.address(), ca, ca.issue(uris=[BUILD])) as channel:
        yield channel


# --- who gets in ---


def code_of(channel: grpc.Channel) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code()


def test_only_certificates_of_a_client_ca_shake_hands(farm: Farm, ca: CA) -> None:
    now = datetime.datetime.now(datetime.UTC)
    strangers = [
        None,
        CA().issue(uris=[BUILD]),
        CA("Test CA").issue(uris=[BUILD]),
        ca.issue(uris=[BUILD], not_before=now - 2 * DAY, not_after=now - DAY),
        ca.issue(uris=[BUILD], not_before=now + DAY, not_after=now + 2 * DAY),
        ca.issue(uris=[BUILD], usages=(SERVER,)),
    ]
    for stranger in strangers:
        with secure_channel(farm.running.address(), ca, stranger) as channel:
            assert code_of(channel) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(farm.running.address()) as channel:
        assert code_of(channel) is grpc.StatusCode.UNAVAILABLE


def test_an_intermediate_gets_in(farm: Farm, ca: CA) -> None:
    middle = CA("Middle", parent=ca)
    with secure_channel(farm.running.address(), ca, middle.issue(uris=[BUILD])) as channel:
        assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=10).signature


def test_each_listener_knows_its_own_callers(
    ca: CA, config: dict[str, Any], store: SoftwareStore, tmp_path: Path
) -> None:
    """The same certificate is a caller on one listener and nobody on the other; without TLS everybody is one caller."""
    office = CA("Office CA")
    (tmp_path / "office").mkdir()
    second = dict(config["listeners"][0], allow_common_name=True)
    second["client_cas"] = [{"file": str(office.write(tmp_path / "office")), "names": ["cn:Desk 7"]}]
    config["listeners"] += [
        second,
        {"address": "[::1]:0" if _has_ipv6() else "127.0.0.1:0", "auth": "none"},
        {"address": f"unix:{tmp_path}/s", "auth": "none"},
    ]
    config["grants"].append(
        {"name": "desk", "callers": ["cn:Desk 7", "local:insecure"], "keys": ["capgo"], "operations": ["sign-checksum"]}
    )
    with RunningService(config, store.backends) as running:
        assert [auth for auth, _ in running.service.addresses] == ["mtls", "mtls", "none", "none"]
        desk = office.issue(common_name="Desk 7")
        with secure_channel(running.address(1), ca, desk) as channel:
            assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=10).signature
        assert running.decisions.last.caller == "cn:Desk 7"
        with secure_channel(running.address(0), ca, desk) as channel:
            assert code_of(channel) is grpc.StatusCode.UNAVAILABLE
        with secure_channel(running.address(0), ca, ca.issue(common_name="Desk 7")) as channel:
            assert code_of(channel) is grpc.StatusCode.UNAUTHENTICATED
        for listener in (2, 3):
            with grpc.insecure_channel(running.address(listener)) as channel:
                assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=10).signature
            assert (running.decisions.last.caller, running.decisions.last.proof.method) == ("local:insecure", "none")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_without_tls_nobody_has_a_grant_by_accident(
    config: dict[str, Any], store: SoftwareStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config["listeners"] = [{"address": "127.0.0.1:0", "auth": "none"}]
    config["grants"][0]["callers"] = ["spiffe://example/**", "dns:*.example", "cn:local", "dns:local"]
    with RunningService(config, store.backends) as running, grpc.insecure_channel(running.address()) as channel:
        assert (
            refused(lambda: SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)).code.name == "PERMISSION_DENIED"
        )
    assert "HAS NO TLS AND ASKS NOBODY WHO THEY ARE" in caplog.text


def test_without_tls_only_this_machine(config: dict[str, Any], store: SoftwareStore) -> None:
    config["listeners"] = [{"address": "0.0.0.0:0", "auth": "none"}]
    with pytest.raises(ConfigError, match=r"listeners\[0\]"):
        RunningService(config, store.backends)


# --- a start that cannot be ---


def test_an_address_that_is_taken(config: dict[str, Any], store: SoftwareStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config["listeners"][0]["address"] = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=r"cannot listen at 127\.0\.0\.1"), RunningService(config, store.backends):
            raise AssertionError("it listens")
    assert store.calls.closed == 1


def test_two_services_do_not_share_a_port(
    running: RunningService, ca: CA, tmp_path: Path, store: SoftwareStore
) -> None:
    config = farm_config(ca, tmp_path)
    config["listeners"][0]["address"] = running.address()
    with pytest.raises(ListenError), RunningService(config, store.backends):
        raise AssertionError("it listens")


def test_a_certificate_that_cannot_serve(config: dict[str, Any], store: SoftwareStore, ca: CA, tmp_path: Path) -> None:
    ca.issue(dns=["localhost"]).write(tmp_path, "server")
    with pytest.raises(TlsError, match="not for servers"), RunningService(config, store.backends):
        raise AssertionError("it listens")
    assert store.calls.opened == 0


# --- health and reflection ---


@pytest.mark.parametrize("service", ["", "privyseal.v1.SigningService", "privyseal.v1.KeyService"])
def test_health(farm: Farm, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert HealthStub(farm.channel).Check(request, timeout=10).status == SERVING


@pytest.mark.parametrize("service", ["capgo", "privyseal.v1.Other"])
def test_health_says_nothing_of_keys(farm: Farm, service: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        HealthStub(farm.channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = HealthStub(farm.channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection(farm: Farm) -> None:
    request = reflection_pb2.ServerReflectionRequest
    asked = [request(list_services=""), request(file_containing_symbol="privyseal.v1.SigningService")]
    listed, found = list(ServerReflectionStub(farm.channel).ServerReflectionInfo(iter(asked), timeout=10))  # type: ignore[no-untyped-call]
    names = [service.name for service in listed.list_services_response.service]
    assert names == ["grpc.health.v1.Health", "privyseal.v1.KeyService", "privyseal.v1.SigningService"]
    assert found.file_descriptor_response.file_descriptor_proto


# --- a store that is away ---


def test_a_key_that_is_away_is_unavailable_then_healed(config: dict[str, Any], store: SoftwareStore, ca: CA) -> None:
    store.faults.away = True
    with RunningService(config, store.backends) as running:
        with secure_channel(running.address(), ca, ca.issue(uris=[BUILD])) as channel:
            signing, keys = SigningServiceStub(channel), KeyServiceStub(channel)
            refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "KEY_STORE_AWAY")
            assert 0.1 <= refusal.retry_after_s <= 30
            assert "hsm-7" not in str(refusal.words)
            key = keys.GetKey(keys_pb.GetKeyRequest(name="capgo"), timeout=10).key
            assert (key.state, key.key_version) == (keys_pb.KEY_STATE_UNAVAILABLE, "")
            assert not key.HasField("public_key")
            assert not key.HasField("custody")
            assert readiness(channel) == [NOT_SERVING, NOT_SERVING, SERVING, SERVING]
            store.faults.away = False
            healed = _retried(signing)
            assert readiness(channel) == [SERVING] * 4
        assert healed.signature


def readiness(channel: grpc.Channel) -> list[int]:
    """The health of what is of no use without a key, of what is, and liveness."""
    names = ("", "privyseal.v1.SigningService", "privyseal.v1.KeyService", "live")
    return [HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status for name in names]


def test_readiness_is_any_key_that_serves_and_comes_back_without_calls(
    config: dict[str, Any], store: SoftwareStore, ca: CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed = {KeyState.UNAVAILABLE: 600.0, KeyState.BLOCKED: 600.0}
    monkeypatch.setattr("privyseal_service.keys.served_key._BELIEVED_S", believed)
    with (
        RunningService(config, store.backends) as running,
        secure_channel(running.address(), ca, ca.issue(uris=[BUILD])) as channel,
    ):
        signing, watch = SigningServiceStub(channel), HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        keys = running.service._keyring.keys
        for problem in (UnavailableError("network", "gone"), OperatorError("permission", "taken away")):
            believed.update(dict.fromkeys(believed, 600.0))
            for each in (keys["signer"], keys["opener"]):
                running.run(note(each, problem))
            assert readiness(channel) == [SERVING] * 4
            believed.update(dict.fromkeys(believed, 0.1))
            store.faults.fail = lambda _, problem=problem: problem  # type: ignore[misc]
            refused(lambda: signing.SignChecksum(SIGN, timeout=10))
            assert next(watch).status == NOT_SERVING
            assert next(watch).status == SERVING  # nobody asked: what was met is believed for a while only
        watch.cancel()


async def note(key: ServedKey, problem: BackendError) -> None:
    key.note(problem)


def _retried(signing: SigningServiceStub) -> pb.SignChecksumResponse:
    """As a client would: again when the answer says that it may help."""
    waited = threading.Event()
    for _ in range(50):
        answer = signing.SignChecksum.future(SIGN, timeout=10)
        failure = answer.exception()
        if failure is None:
            return answer.result()
        assert isinstance(failure, grpc.RpcError)
        refusal = Refusal(failure)
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        waited.wait(refusal.retry_after_s)
    raise AssertionError("it never healed")


# --- the stop ---


def test_a_stop_finishes_what_is_in_flight(
    running: RunningService, store: SoftwareStore, channel: grpc.Channel
) -> None:
    begun = threading.Event()
    store.faults.delay_s = 0.4
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    signing = SigningServiceStub(channel)
    watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert next(watch).status == SERVING
    call = signing.SignChecksum.future(SIGN, timeout=30)
    assert begun.wait(10)
    running.run(running.service.stop(20))
    assert len(call.result().signature) == 256
    assert next(watch).status == NOT_SERVING
    assert store.calls.closed == 1
    with pytest.raises(grpc.RpcError) as caught:
        signing.SignChecksum(SIGN, timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_open_streams_do_not_hold_the_stop(running: RunningService, channel: grpc.Channel) -> None:
    """Watches of health and streams of reflection are ended; were they not, the stop would take the whole grace."""
    watches = [HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=300) for _ in range(3)]
    assert [next(watch).status for watch in watches] == [SERVING] * 3
    end = threading.Event()

    def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        end.wait()

    stream = ServerReflectionStub(channel).ServerReflectionInfo(questions(), timeout=300)  # type: ignore[no-untyped-call]
    next(stream)
    try:
        running.run(running.service.stop(3600))
    finally:
        end.set()
    assert [[answer.status for answer in watch] for watch in watches] == [[NOT_SERVING]] * 3


def test_a_stop_waits_no_longer_than_its_grace(
    running: RunningService, store: SoftwareStore, channel: grpc.Channel
) -> None:
    begun = threading.Event()
    store.faults.delay_s = 3600
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    call = SigningServiceStub(channel).SignChecksum.future(SIGN, timeout=5000)
    assert begun.wait(10)
    running.run(running.service.stop(0.05))
    with pytest.raises(grpc.RpcError):
        call.result()
    assert running.decisions.last.outcome.value == "cancelled"


def test_a_stop_twice(running: RunningService, store: SoftwareStore) -> None:
    running.run(running.service.stop(1))
    running.run(running.service.stop(1))
    assert store.calls.closed == 1


# --- peers that misbehave ---


def test_silent_peers_are_dropped(config: dict[str, Any], store: SoftwareStore) -> None:
    config["server"]["handshake_timeout_s"] = 0.2
    with RunningService(config, store.backends) as running:
        host, _, port = running.address().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as silent:
            assert silent.recv(1) == b""


def test_idle_peers_are_dropped(config: dict[str, Any], store: SoftwareStore, ca: CA) -> None:
    config["server"]["max_connection_idle_s"] = 0.2
    states: list[grpc.ChannelConnectivity] = []
    left = threading.Event()

    def watch(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        if grpc.ChannelConnectivity.READY in states and state is grpc.ChannelConnectivity.IDLE:
            left.set()

    client = ca.issue(uris=[BUILD])
    with RunningService(config, store.backends) as running, secure_channel(running.address(), ca, client) as channel:
        channel.subscribe(watch)
        SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)
        assert left.wait(20)
        channel.unsubscribe(watch)


def frames_of(address: str, sent: bytes, wanted: int) -> bytes:
    """Speak HTTP/2 to a listener without TLS; the payload of the first frame of the wanted type."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + sent)
        stream = connection.makefile("rb")
        while True:
            head = stream.read(9)
            payload = stream.read(int.from_bytes(head[:3], "big"))
            if head[3] == wanted:
                return payload


@pytest.fixture
def plain(config: dict[str, Any], store: SoftwareStore) -> Iterator[str]:
    config["listeners"] = [{"address": "127.0.0.1:0", "auth": "none"}]
    config["server"]["max_concurrent_streams"] = 17
    with RunningService(config, store.backends) as running:
        yield running.address()


def test_streams_are_bounded(plain: str) -> None:
    settings = frames_of(plain, b"", 4)
    pairs = {settings[i : i + 2]: settings[i + 2 : i + 6] for i in range(0, len(settings), 6)}
    assert int.from_bytes(pairs[b"\x00\x03"], "big") == 17  # RFC 9113, 6.5.2: SETTINGS_MAX_CONCURRENT_STREAMS


def test_too_many_pings_end_a_connection(plain: str) -> None:
    ping = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"
    farewell = frames_of(plain, ping * 20, 7)
    assert int.from_bytes(farewell[4:8], "big") == 11  # RFC 9113, 7: ENHANCE_YOUR_CALM


def test_connections_grow_no_older_than_configured(config: dict[str, Any], store: SoftwareStore) -> None:
    config["listeners"] = [{"address": "127.0.0.1:0", "auth": "none"}]
    config["server"]["max_connection_age_s"] = 0.2
    with RunningService(config, store.backends) as running:
        farewell = frames_of(running.address(), b"", 7)
    assert int.from_bytes(farewell[4:8], "big") == 0  # RFC 9113, 7: NO_ERROR


def test_headers_are_bounded(farm: Farm) -> None:
    metadata = (("x-long", "a" * 40_000),)
    with pytest.raises(grpc.RpcError) as caught:
        farm.signing.SignChecksum(SIGN, timeout=10, metadata=metadata)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_log_names_each_key_at_the_start(
    config: dict[str, Any], store: SoftwareStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with RunningService(config, store.backends):
        assert caplog.text.count(" serves: PublicKey(RSA-2048, ") == 3


def test_callers_without_a_name_do_not_flood_the_log(
    config: dict[str, Any], store: SoftwareStore, ca: CA, caplog: pytest.LogCaptureFixture
) -> None:
    with RunningService(config, store.backends) as running:
        nobody = ca.issue(uris=["spiffe://example/a", "spiffe://example/b"])
        with secure_channel(running.address(), ca, nobody) as channel:
            for _ in range(60):
                with pytest.raises(grpc.RpcError):
                    SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)
    counted = re.findall(r"(\d+) more calls from ipv4:127\.0\.0\.1 could not be authenticated", caplog.text)
    assert counted
    assert caplog.text.count("another URI beside it") + sum(map(int, counted)) == 60


def test_a_watch_hears_of_a_stop_that_comes_while_it_is_answered() -> None:
    async def watch() -> list[int]:
        health = Health(["a"])
        health.serve()
        answers = health.Watch(health_pb2.HealthCheckRequest(service="a"), None)
        heard = [(await answers.__anext__()).status]
        health.stop()  # the answer is on its way still
        return [*heard, *[answer.status async for answer in answers]]

    serving = health_pb2.HealthCheckResponse.SERVING
    assert asyncio.run(watch()) == [serving, health_pb2.HealthCheckResponse.NOT_SERVING]
