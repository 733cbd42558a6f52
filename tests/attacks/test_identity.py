"""Who somebody claims to be, and is not."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cryptography import x509

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.api.tls import TlsError, load_tls
from privyseal_service.config.loading import parse_config
from tests.support.farm import BUILD, farm_config
from tests.support.pki import CA, DAY, SERVER, Issued
from tests.support.service import secure_channel
from tests.support.targets import SIGN, Target, code, shown
from tests.support.tokens import rsa_key, token

NOW = datetime.datetime.now(datetime.UTC)


def signed_by(target: Target, shown: Issued | None) -> str:
    return code(lambda: target.signing(shown).SignChecksum(SIGN, timeout=10))


def _self_signed(_: CA) -> Issued:
    own = CA("spiffe", is_ca=False)
    return Issued(own.issue(uris=[BUILD]).certificate, own.key)


def _issued_by_a_client(ca: CA) -> Issued:
    client = ca.issue(uris=["spiffe://example/low"])
    forger = CA("Forger", parent=ca)
    forger.key, forger.certificate = client.key, client.certificate
    forged = forger.issue(uris=[BUILD])
    return Issued(forged.certificate, forged.key, (client.certificate,))


def _with_a_borrowed_chain(ca: CA) -> Issued:
    real, fake = ca.issue(uris=[BUILD]), CA().issue(uris=[BUILD])
    return Issued(fake.certificate, fake.key, (real.certificate, ca.certificate))


STRANGERS: dict[str, Callable[[CA], Issued | None]] = {
    "no certificate": lambda _: None,
    "of another CA": lambda _: CA().issue(uris=[BUILD]),
    "of another CA with the same name": lambda _: CA("Test CA").issue(uris=[BUILD]),
    "self-signed": _self_signed,
    "expired": lambda ca: ca.issue(uris=[BUILD], not_before=NOW - 2 * DAY, not_after=NOW - DAY),
    "not yet valid": lambda ca: ca.issue(uris=[BUILD], not_before=NOW + DAY, not_after=NOW + 2 * DAY),
    "a server's": lambda ca: ca.issue(uris=[BUILD], usages=(SERVER,)),
    "issued by a client": _issued_by_a_client,
    "with the right chain of somebody else": _with_a_borrowed_chain,
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_certificates_of_strangers(target: Target, stranger: str) -> None:
    assert signed_by(target, STRANGERS[stranger](target.ca)) == "UNAVAILABLE"


def test_a_client_certificate_used_as_a_servers(target: Target, target_ca: CA) -> None:
    """A build machine cannot stand in for the service: clients refuse it, and so does the service's own start."""
    data = farm_config(target_ca, target.folder)
    target_ca.issue(dns=["localhost"], ips=["127.0.0.1"]).write(target.folder, "impostor")
    data["listeners"][0].update(
        certificate=str(target.folder / "impostor.pem"), certificate_key=str(target.folder / "impostor-key.pem")
    )
    (listener,) = parse_config(data, "x", target.folder).listeners
    with pytest.raises(TlsError, match="is not for servers"):
        load_tls(listener)
    impostor = target_ca.issue(dns=["localhost"], ips=["127.0.0.1"])
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(impostor.key_pem, impostor.chain_pem)]))
    server.start()
    try:
        with secure_channel(f"127.0.0.1:{port}", target_ca, None) as channel:
            assert code(lambda: SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)) == "UNAVAILABLE"
    finally:
        server.stop(0)


@pytest.mark.parametrize(
    ("uris", "dns"),
    [
        (["spiffe://example/build/*"], []),
        (["spiffe://example/**"], []),
        (["spiffe://example/build%2Fci"], []),
        (["spiffe://example/build/%2e%2e/build/ci"], []),
        (["spiffe://example/build/../build/ci"], []),
        (["spiffe://example/build//ci"], []),
        (["spiffe://example/build/ci/"], []),
        (["spiffe://example/build/ci?x"], []),
        (["spiffe://example/build/ci#x"], []),
        (["spiffe://EXAMPLE/build/ci"], []),
        (["spiffe://example./build/ci"], []),
        (["spiffe://example:443/build/ci"], []),
        (["spiffe://user@example/build/ci"], []),
        ([BUILD, "spiffe://example/other"], []),
        (["SPIFFE://example/build/ci"], []),
        ([], ["*.build.example"]),
        ([], ["one.build.example."]),
        ([], ["one..build.example"]),
        ([], ["one.build.example\0.evil.example"]),
        ([], ["one.build.example", "two.build.example"]),
        ([], ["xn--ne-eka.build.example"]),
        ([], ["one.build.examp1e"]),
    ],
)
def test_names_that_are_written_otherwise(target: Target, uris: list[str], dns: list[str]) -> None:
    """The CA has signed them, and none of them is the caller that it resembles."""
    assert signed_by(target, target.ca.issue(uris=uris, dns=dns)) in {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def test_a_look_alike_in_unicode(target: Target) -> None:
    """No such name may be in a certificate, and its form in ASCII is another name, which the CA may not vouch for."""
    with pytest.raises(ValueError, match=r"ASCII|A-label"):
        x509.UniformResourceIdentifier("spiffe://ex\u0430mple/build/ci")
    for look_alike in ("spiffe://xn--exmple-4nf/build/ci", "spiffe://examp1e/build/ci", "spiffe://example.x/build/ci"):
        assert signed_by(target, target.ca.issue(uris=[look_alike])) == "UNAUTHENTICATED"


def test_a_common_name_is_no_name(target: Target) -> None:
    assert signed_by(target, target.ca.issue(common_name=BUILD)) == "UNAUTHENTICATED"


def test_headers_that_name_somebody(target: Target) -> None:
    """As a proxy would set them, or the service itself."""
    metadata = [
        ("x-forwarded-client-cert", f"URI={BUILD}"),
        ("x-ssl-client-cert", "x"),
        ("authorization", f"Bearer {token()}"),
        ("privyseal-request-id", "mine"),
    ]
    nobody = target.signing(target.ca.issue(uris=["spiffe://example/low"]))
    assert code(lambda: nobody.SignChecksum(SIGN, timeout=10, metadata=metadata)) == "PERMISSION_DENIED"


def test_a_token_that_is_replayed_after_its_end_while_others_are_good(target: Target) -> None:
    """Over the same connection, and though the service knows it well."""
    pipeline = target.pipeline()
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=shown(token())).signature
    now = int(time.time())
    short = token(iat=now - 600, nbf=now - 600, exp=now - 28)  # two seconds are left of the skew of 30
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=shown(short)).signature
    before = target.store.calls.private
    end_s = time.monotonic() + 20
    while (call := pipeline.SignChecksum.future(SIGN, timeout=10, metadata=shown(short))).exception() is None:
        assert time.monotonic() < end_s
        time.sleep(0.1)
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert target.store.calls.private >= before
    for _ in range(3):
        assert code(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=shown(short))) == "UNAUTHENTICATED"
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=shown(token())).signature


def test_a_token_without_tls(target: Target) -> None:
    with grpc.insecure_channel(target.running.address(1)) as channel:
        call = SigningServiceStub(channel)
        assert code(lambda: call.SignChecksum(SIGN, timeout=10, metadata=shown(token()))) == "UNAVAILABLE"


@pytest.mark.parametrize(
    "subject",
    [
        "repo:octo-org/app:ref:refs/heads/*",
        "repo:octo-org/app:ref:refs/heads/a/b",
        "repo:octo-org/app:ref:refs/heads/",
        "repo:octo-org%2Fapp:ref:refs/heads/a",
        "repo:octo-org/app.:ref:refs/heads/a",
        "repo:OCTO-ORG/app:ref:refs/heads/a",
        "repo:octo-\u043erg/app:ref:refs/heads/a",
        "repo:octo-org/app:ref:refs/heads/a\n",
        "repo:octo-org/app:environment:x:ref:refs/heads/a",
        "repo:evil/x:repo:octo-org/app:ref:refs/heads/a",
    ],
)
def test_subjects_that_are_written_otherwise(target: Target, subject: str) -> None:
    pipeline = target.pipeline()
    found = code(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=shown(token(sub=subject))))
    assert found in {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def test_a_flood_of_unknown_keys(target: Target) -> None:
    """Each costs the service a look into a table; none is ever kept, and none makes it ask anybody."""
    pipeline = target.pipeline()
    calls = [
        pipeline.SignChecksum.future(SIGN, timeout=30, metadata=shown(token(rsa_key("b"), kid=f"k{number}")))
        for number in range(100)
    ]
    assert {str(call.code().name) for call in calls} == {"UNAUTHENTICATED"}
