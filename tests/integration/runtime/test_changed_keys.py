"""Changed keys, while the service runs: frozen, added, removed, refused."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal import capgo
from privyseal.v1 import keys_pb2 as keys_pb
from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.interface import Purpose
from privyseal_service.config.loading import parse_config
from privyseal_service.keys.keyring import KeyringError
from privyseal_service.runtime.reload import UnusableError
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import CHECKSUM, SIGN, batch, eventually, frozen, limited
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, Issued
from tests.support.refusals import refused
from tests.support.service import RunningService, secure_channel


def test_a_frozen_key(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, ca: CA, client: Issued,
    store: SoftwareStore,
) -> None:  # fmt: skip
    signing.SignChecksum(SIGN, timeout=10)
    running.reload(frozen(config))
    before = store.calls.private
    wrap = pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(16), scheme=pb.WRAP_SCHEME_CAPGO)
    for call in (lambda: signing.SignChecksum(SIGN, timeout=10), lambda: signing.WrapSessionKey(wrap, timeout=10)):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_FROZEN")
        assert running.decisions.last.reason == "KEY_FROZEN"
    assert store.calls.private == before
    with secure_channel(running.address(), ca, client) as channel:
        key = KeyServiceStub(channel).GetKey(keys_pb.GetKeyRequest(name="capgo"), timeout=10).key
    assert key.state == keys_pb.KEY_STATE_FROZEN
    assert running.service.unhealthy == frozenset()
    running.reload(config)
    assert signing.SignChecksum(SIGN, timeout=10).signature
    assert store.calls.opened == 3


def test_a_freeze_stops_what_waits_for_a_turn(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    """A batch goes in chunks: those that have not reached the store when the key is frozen never do."""
    begun = threading.Event()
    store.faults.delay_s = 0.02
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    call = signing.BatchSignChecksums.future(batch(400), timeout=60)
    assert begun.wait(10)
    running.reload(frozen(config))
    results = call.result().results
    signed = [result.WhichOneof("result") == "signature" for result in results]
    assert any(signed)
    assert signed.count(True) == store.calls.signed < 400
    assert {result.error.code for result in results if not result.signature} == {
        grpc.StatusCode.FAILED_PRECONDITION.value[0]
    }


def test_keys_that_come_and_go(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    other = rsa.generate_private_key(65537, 2048)
    store.add("second", other)
    changed = copy.deepcopy(config)
    changed["keys"].append({"name": "second", "uri": "software:second", "schemes": ["capgo-v3"]})
    changed["keys"] = changed["keys"][1:]
    for grant in changed["grants"]:
        grant["keys"] = ["second" if key == "capgo" else key for key in grant["keys"]]
    running.reload(changed)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "NO_GRANT"
    request = pb.SignChecksumRequest(key="second", checksum=CHECKSUM, scheme=SIGN.scheme)
    assert eventually(lambda: signing.SignChecksum(request, timeout=10)).signature


def cause(refused: pytest.ExceptionInfo[UnusableError]) -> tuple[str, str]:
    """The key that refused a configuration, and the part of it that did."""
    error = refused.value.__cause__
    assert isinstance(error, KeyringError)
    return error.key, error.cause.part


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"custody": {"protection": "hardware"}}, "custody"),
        ({"fingerprint": "0" * 64}, "object"),
        ({"uri": "software:none"}, "object"),
        ({"uri": "software:signer"}, "mechanism"),
        ({"schemes": ["rsassa-pss-sha256"]}, "mechanism"),
        ({"uri": "other:x"}, "backend"),
    ],
)
def test_a_key_that_does_not_fit_changes_nothing(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, change: dict[str, Any], part: str
) -> None:
    """Not even what is right in the same configuration."""
    changed = copy.deepcopy(config)
    changed["keys"][0].update(change)
    changed["keys"][1]["state"] = "frozen"
    changed["grants"] = [{**config["grants"][0], "keys": ["signer"]}]
    with pytest.raises(UnusableError) as caught:
        running.reload(changed)
    assert cause(caught) == ("capgo", part)
    assert signing.SignChecksum(SIGN, timeout=10).signature
    pss = pb.SignChecksumRequest(key="signer", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256)
    assert signing.SignChecksum(pss, timeout=10).signature


def test_a_second_name_of_a_key_for_another_purpose_changes_nothing(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    store.add("both", store.keys["capgo"].private_key, Purpose.SIGNATURES)
    changed = copy.deepcopy(config)
    changed["keys"].append({"name": "both", "uri": "software:both", "schemes": ["rsassa-pss-sha256"]})
    with pytest.raises(UnusableError) as caught:
        running.reload(changed)
    assert cause(caught)[0] in {"both", "capgo"}
    assert "both" not in running.service._keyring.keys
    assert signing.SignChecksum(SIGN, timeout=10).signature


def test_a_key_whose_store_is_away_is_taken_up_as_at_a_start(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    """It is looked for in the background, unless it is required; and a freeze waits for nobody."""
    store.add("second", rsa.generate_private_key(65537, 2048))
    changed = copy.deepcopy(config)
    changed["keys"].append({"name": "second", "uri": "software:second", "schemes": ["capgo-v3"], "required": True})
    changed["grants"][0]["keys"].append("second")
    store.faults.away = True
    with pytest.raises(UnusableError) as caught:
        running.reload(changed)
    assert cause(caught) == ("second", "network")
    changed["keys"][-1]["required"] = False
    changed["keys"][0]["state"] = "frozen"
    running.reload(changed)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "KEY_FROZEN"
    request = pb.SignChecksumRequest(key="second", checksum=CHECKSUM, scheme=SIGN.scheme)
    assert refused(lambda: signing.SignChecksum(request, timeout=10)).reason == "KEY_STORE_AWAY"
    store.faults.away = False
    assert eventually(lambda: signing.SignChecksum(request, timeout=10)).signature


def test_a_new_key_serves_from_the_moment_of_the_change_on(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    store.add("second", rsa.generate_private_key(65537, 2048))
    changed = copy.deepcopy(config)
    changed["keys"][0]["uri"] = "software:second"
    running.reload(changed)
    public_key = store.keys["second"].description().public_key
    signature = signing.SignChecksum(SIGN, timeout=10).signature
    assert capgo.recover(public_key.key, signature) == CHECKSUM


def test_what_is_called_off_leaves_nothing_open(running: RunningService, config: dict[str, Any]) -> None:
    changed = limited(config, daily_quota=1)
    changed["limits"] = {"storage": "redis://127.0.0.1:1/0"}
    before = list(running.service._limiters)
    prepared = running.run(running.service.prepare(parse_config(changed, "server.toml", Path("/nonexistent"))))
    running.run(prepared.discard())
    assert running.service._limiters == before
    assert running.service.config.limits.storage is None
