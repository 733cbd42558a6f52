"""Health, reflection, and readiness while a key store is unavailable."""

from __future__ import annotations

import logging
import threading
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from privyseal.v1 import keys_pb2 as keys_pb
from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_service.keys.served_key import KeyState, ServedKey
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import BUILD, SIGN, Farm
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA
from tests.support.refusals import Refusal, refused
from tests.support.service import RunningService, secure_channel

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


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
    monkeypatch.setattr("privyseal_service.keys.served_key._ERROR_HOLDS_S", believed)
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


def test_the_log_names_each_key_at_the_start(
    config: dict[str, Any], store: SoftwareStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with RunningService(config, store.backends):
        assert caplog.text.count(" serves: PublicKey(RSA-2048, ") == 3
