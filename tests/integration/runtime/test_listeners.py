"""Who gets in, which starts are refused, and which peers are dropped."""

from __future__ import annotations

import datetime
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.api.tls import TlsError
from privyseal_service.config.errors import ConfigError
from privyseal_service.system.sockets import ListenError
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import BUILD, SIGN, Farm, farm_config
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, DAY, SERVER
from tests.support.refusals import refused
from tests.support.service import RunningService, secure_channel


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
    assert "HAS NO TLS AND NO AUTHENTICATION" in caplog.text


def test_without_tls_only_this_machine(config: dict[str, Any], store: SoftwareStore) -> None:
    config["listeners"] = [{"address": "0.0.0.0:0", "auth": "none"}]
    with pytest.raises(ConfigError):
        RunningService(config, store.backends)


def test_an_address_that_is_taken(config: dict[str, Any], store: SoftwareStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config["listeners"][0]["address"] = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError), RunningService(config, store.backends):
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
    with pytest.raises(TlsError) as caught, RunningService(config, store.backends):
        raise AssertionError("it listens")
    assert caught.value.part == "certificate"
    assert store.calls.opened == 0


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
