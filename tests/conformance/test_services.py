"""Every backend behind the service: the real program, asked over mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privyseal.v1.signing_pb2 import WrapSessionKeyRequest
from privyseal_service.domain.operations import MECHANISMS, Scheme
from privyseal_service.keys.enrollment import worded
from tests.conformance.adapters import SHORT_S, WRAP_SCHEMES, Failure, Service, program, store_table
from tests.conformance.cases import *  # noqa: F403 - the cases are this module's tests
from tests.conformance.cases import run, some_scheme, works
from tests.conformance.samples import SCHEMES, UNWRAPPING, sample
from tests.conformance.stores import Fault, KeyUnderTest, Kind, StoreUnderTest
from tests.support.programs import CALLER, RealService, configuration, privyseal_server, write_pki


@pytest.fixture(scope="session")
def running(store: StoreUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    with program(store, tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def face(store: StoreUnderTest, running: RealService) -> Service:
    return Service(store, running)


@pytest.fixture
def own_face(store: StoreUnderTest, tmp_path: Path) -> Iterator[Service]:
    with program(store, tmp_path) as service:
        yield Service(store, service)


STATES = {Fault.AWAY: "UNAVAILABLE", Fault.BUSY: "SERVING", Fault.HANGS: "SERVING", Fault.CORRUPTED: "SERVING"}


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_the_state_of_a_key_is_what_its_store_last_showed(face: Service, fault: Fault) -> None:
    async def case(face: Service) -> None:
        key = face.store.signer
        asked = sample(some_scheme(face, key), key.public_key)
        await works(face, key)
        with face.store.failing(fault):
            with pytest.raises(Failure) as caught:
                await face.use(key, asked.scheme, asked.data, SHORT_S)
            told_late = caught.value.kind is Kind.DEADLINE  # in the middle of an attempt: it says nothing of the key
            refused = "BLOCKED" if face.store.refused is Kind.OPERATOR else "SERVING"
            assert await face.state(key) == ("SERVING" if told_late else STATES.get(fault, refused))
        await works(face, key)
        assert await face.state(key) == "SERVING"

    run(face, case)


def test_what_the_service_wraps_the_store_unwraps(face: Service) -> None:
    """RSAES needs the public key alone: the store is not asked for the wrapping."""

    async def case(face: Service) -> None:
        able = [(key, scheme) for key in face.store.keys for scheme in UNWRAPPING if scheme in face.can(key)]
        assert able
        for key, scheme in able:
            before = face.store.private_calls()
            request = WrapSessionKeyRequest(key=key.name, session_key=bytes(range(32)), scheme=WRAP_SCHEMES[scheme])
            answer = await face.call("WrapSessionKey", request)
            assert face.store.private_calls() == before
            assert await face.use(key, scheme, answer.wrapped_key) == bytes(range(32))

    run(face, case)


def test_a_store_that_is_away_does_not_stop_the_start(store: StoreUnderTest, tmp_path: Path) -> None:
    async def case(face: Service) -> None:
        key = store.signer
        asked = sample(some_scheme(face, key), key.public_key)
        assert await face.state(key) == "UNAVAILABLE"
        with pytest.raises(Failure) as caught:
            await face.use(key, asked.scheme, asked.data)
        assert caught.value.kind is Kind.UNAVAILABLE
        store.clear()
        await works(face, key)

    with store.failing(Fault.AWAY), program(store, tmp_path, **store.impatient) as service:
        run(Service(store, service), case)


def test_the_custody_report_of_a_store(store: StoreUnderTest, running: RealService) -> None:
    done = running.privyseal("key", "custody", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["asked_as"] == f"the certificate of {CALLER}"
    found = {key["name"]: key for key in report["keys"]}
    assert set(found) == {key.name for key in store.keys}
    for key in store.keys:
        said = found[key.name]
        assert key.place[0] in said["lives_in"]
        assert said["algorithm"] == f"RSA-{key.public_key.key_size}"
        assert set(said["granted"]) == {scheme.value for scheme in key.schemes}
        findings = (said["custody"][name]["value"] for name in ("protection", "origin", "export"))
        assert list(findings) == [worded(finding) for finding in key.custody]


def _misfits(store: StoreUnderTest) -> list[tuple[str, KeyUnderTest, Scheme, str, str]]:
    """Keys that must not serve: the name in the configuration, the key, its scheme, its URI, more of its table."""
    unable = [
        (f"{key.name}.{scheme.value}", key, scheme, key.uri, "")
        for key in store.keys
        for scheme in SCHEMES
        if MECHANISMS[scheme] not in key.can
    ]
    signer = store.signer
    more = [
        ("pinned", signer.uri, f'fingerprint = "{"0" * 64}"'),
        ("absent", store.absent, ""),
        ("malformed", store.malformed[-1], ""),
        ("low", signer.uri, 'custody = { protection = "hardware", origin = "generated-inside" }'),
    ]
    return [*unable, *((name, signer, signer.schemes[0], uri, table) for name, uri, table in more)]


def test_a_key_that_cannot_serve_is_named_with_the_reason(store: StoreUnderTest, tmp_path: Path) -> None:
    misfits = _misfits(store)
    tables = [
        f'[[keys]]\nname = "{name}"\nuri = "{uri}"\nschemes = ["{scheme.value}"]\n{more}\n'
        for name, _, scheme, uri, more in misfits
    ]
    fit = {key.name: (key.uri, [scheme.value for scheme in key.schemes]) for key in store.keys}
    write_pki(tmp_path)
    config = tmp_path / "server.toml"
    config.write_text(configuration(fit, extra="\n".join([*tables, store_table(store)])))
    with store.in_this_process():
        checked = privyseal_server("check", "--config", config, "--json", env={})

    assert checked.returncode == 1, checked.stderr
    found: dict[str, Any] = {key["name"]: key for key in json.loads(checked.stdout)["keys"]}
    assert {name for name, key in found.items() if key["ok"]} == set(fit)
    for name, key, scheme, _, _ in misfits:
        said = f"{found[name]['message']}; {found[name]['remedy']}"
        part = found[name]["part"]
        if name.endswith(scheme.value):
            assert part == "mechanism"
            assert scheme.value in said
            assert len(said) > 60
        if name == "pinned":
            assert found[key.name]["fingerprint"] in said  # which key is there instead
        if name == "low":
            assert part == "custody"
    for secret in store.secrets:
        assert secret not in checked.stdout + checked.stderr
