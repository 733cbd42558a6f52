"""From a certificate to a name: what it proves, who may vouch for it, and what ends that."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import pytest
from cryptography import x509

from privyseal_service.domain.caller import DeniedCertificates, InsecureIdentifier, Peer
from privyseal_service.domain.names import CallerPattern
from privyseal_service.identity.certificates import CertificateError, CertificateIdentifier, ClientAuthority, Refusal
from tests.support.pki import CA, DAY, SERVER, Issued, of_an_unknown_curve

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


def identifier(
    *authorities: tuple[CA, Sequence[str]], common_name: bool = False, denied: DeniedCertificates | None = None
) -> CertificateIdentifier:
    bound = [
        ClientAuthority(ca.certificate, tuple(CallerPattern.parse(name) for name in names)) for ca, names in authorities
    ]
    return CertificateIdentifier(bound, allow_common_name=common_name, denied=denied)


def peer(issued: Issued) -> Peer:
    return Peer("ipv4:127.0.0.1:1", issued.pem, issued.chain_pem)


def name_of(issued: Issued, ca: CA, *names: str, common_name: bool = False) -> str:
    return identifier((ca, names), common_name=common_name).identify(peer(issued)).name


def refused(who: CertificateIdentifier, shown: Peer) -> Refusal:
    with pytest.raises(CertificateError) as caught:
        who.identify(shown)
    return caught.value.refusal


def refusal(issued: Issued, ca: CA, *names: str, common_name: bool = False) -> Refusal:
    return refused(identifier((ca, names), common_name=common_name), peer(issued))


def test_the_spiffe_id_comes_first(ca: CA) -> None:
    issued = ca.issue(uris=["spiffe://example/build"], dns=["a.build.example"], common_name="Build")
    assert (
        name_of(issued, ca, "spiffe://example/**", "dns:*.build.example", common_name=True) == "spiffe://example/build"
    )


def test_else_the_dns_name(ca: CA) -> None:
    issued = ca.issue(dns=["A.build.example"], uris=["https://build.example"], ips=["127.0.0.1"], common_name="Build")
    assert name_of(issued, ca, "dns:*.build.example", common_name=True) == "dns:a.build.example"


def test_the_common_name_is_off_by_default(ca: CA) -> None:
    issued = ca.issue(common_name="Build")
    assert refusal(issued, ca, "cn:Build") is Refusal.UNNAMED
    assert name_of(issued, ca, "cn:Build", common_name=True) == "cn:Build"


def test_a_common_name_that_looks_like_a_dns_name_is_no_dns_name(ca: CA) -> None:
    issued = ca.issue(common_name="a.build.example")
    assert refusal(issued, ca, "dns:*.build.example") is Refusal.UNNAMED
    assert refusal(issued, ca, "dns:*.build.example", common_name=True) is Refusal.UNBOUND


@pytest.mark.parametrize(
    ("uris", "dns"),
    [
        (["spiffe://example/build", "spiffe://example/other"], []),
        (["spiffe://example/build", "https://build.example"], []),
        (["SPIFFE://example/build"], []),
        (["spiffe://example/build%2Fadmin"], []),
        (["spiffe://example/build/../admin"], []),
        (["spiffe://example/build/"], []),
        (["spiffe://example/*"], []),
        ([], ["a.build.example", "b.build.example"]),
        ([], ["*.build.example"]),
        ([], ["a.build.example."]),
        ([], ["a..build.example"]),
        ([], ["a\0.build.example"]),
        (["https://build.example"], []),
        ([], []),
    ],
)
def test_certificates_that_prove_no_name(ca: CA, uris: list[str], dns: list[str]) -> None:
    """A malformed SPIFFE ID is not passed over for the DNS name or the common name beside it."""
    issued = ca.issue(uris=uris, dns=dns)
    names = ("spiffe://example/**", "dns:*.build.example", "dns:a.build.example")
    assert refusal(issued, ca, *names) is Refusal.UNNAMED


def test_a_malformed_spiffe_id_is_not_passed_over(ca: CA) -> None:
    issued = ca.issue(uris=["spiffe://example/build%2Fadmin"], dns=["a.build.example"])
    assert refusal(issued, ca, "dns:a.build.example") is Refusal.UNNAMED


def test_a_look_alike_of_a_name_is_refused(ca: CA) -> None:
    raw = x509.DNSName._init_without_validation("a.bu\u0456ld.example")
    look_alike = ca.issue(dns=["xn--bld-5vd.example"])
    assert refusal(look_alike, ca, "dns:*.build.example") is Refusal.UNBOUND
    assert not raw.value.isascii()


def test_a_certificate_for_servers_is_no_caller(ca: CA) -> None:
    issued = ca.issue(dns=["a.build.example"], usages=(SERVER,))
    assert refusal(issued, ca, "dns:*.build.example") is Refusal.INVALID_PATH
    assert name_of(ca.issue(dns=["a.build.example"], usages=None), ca, "dns:*.build.example") == "dns:a.build.example"


def test_each_ca_vouches_for_its_own_names_alone() -> None:
    build, office = CA("Build CA"), CA("Office CA")
    both = identifier((build, ["spiffe://example/build/**"]), (office, ["dns:*.office.example"]))
    good = [build.issue(uris=["spiffe://example/build/ci"]), office.issue(dns=["pc7.office.example"])]
    assert [both.identify(peer(each)).name for each in good] == ["spiffe://example/build/ci", "dns:pc7.office.example"]
    for bad in (office.issue(uris=["spiffe://example/build/ci"]), build.issue(dns=["pc7.office.example"])):
        assert refused(both, peer(bad)) is Refusal.UNBOUND


def test_a_ca_of_the_same_name_is_another_ca() -> None:
    real, fake = CA("Build CA"), CA("Build CA")
    assert refusal(fake.issue(dns=["a.build.example"]), real, "dns:*.build.example") is Refusal.INVALID_PATH


def test_a_self_signed_certificate_vouches_for_nobody(ca: CA) -> None:
    own = CA("a.build.example", is_ca=False)
    issued = Issued(own.issue(dns=["a.build.example"]).certificate, own.key)
    assert refusal(issued, ca, "dns:*.build.example") is Refusal.UNBOUND


def test_intermediates_that_can_be_verified() -> None:
    root = CA("Root")
    middle = CA("Middle", parent=root)
    low = CA("Low", parent=middle)
    for issuer in (middle, low):
        assert name_of(issuer.issue(dns=["a.build.example"]), root, "dns:*.build.example") == "dns:a.build.example"


def test_an_intermediate_may_be_the_bound_ca_itself() -> None:
    middle = CA("Middle", parent=CA("Root"))
    assert name_of(middle.issue(dns=["a.build.example"]), middle, "dns:*.build.example") == "dns:a.build.example"


def test_a_chain_that_somebody_else_sends_along() -> None:
    """Another CA's certificates in the chain do not make it the issuer."""
    build, office = CA("Build CA"), CA("Office CA")
    forged = office.issue(uris=["spiffe://example/build/ci"])
    sent = Peer("", forged.pem, forged.pem + build.pem + build.issue(uris=["spiffe://example/build/ci"]).pem)
    assert refused(identifier((build, ["spiffe://example/**"])), sent) is Refusal.INVALID_PATH


def test_a_certificate_beside_it_that_cannot_be_read(ca: CA) -> None:
    issued = CA().issue(dns=["a.build.example"])
    sent = Peer("", issued.pem, issued.pem + of_an_unknown_curve(ca.pem))
    assert refused(identifier((ca, ["dns:*.build.example"])), sent) is Refusal.INVALID_PATH


def test_chains_without_end() -> None:
    root = issuer = CA("Root")
    for number in range(8):
        issuer = CA(f"CA {number}", parent=issuer)
    assert refusal(issuer.issue(dns=["a.build.example"]), root, "dns:*.build.example") is Refusal.OVERSIZED


def test_a_heap_of_certificates(ca: CA) -> None:
    issued = ca.issue(dns=["a.build.example"])
    heap = Peer("", issued.pem, issued.pem * 80)
    assert refused(identifier((ca, ["dns:*.build.example"])), heap) is Refusal.OVERSIZED


def test_what_proves_nothing_is_not_parsed_again(ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    who, shown = identifier((ca, ["dns:*.build.example"])), peer(ca.issue(dns=["a.other.example"]))
    with pytest.raises(CertificateError) as first:
        who.identify(shown)
    monkeypatch.delattr("privyseal_service.identity.certificates._parse")
    with pytest.raises(CertificateError) as second:
        who.identify(shown)
    assert str(first.value) == str(second.value)
    assert second.value.proof == first.value.proof


def test_expiry_is_looked_at_in_every_call(ca: CA) -> None:
    clock = [NOW.timestamp()]
    names = (CallerPattern.parse("dns:*.build.example"),)
    who = CertificateIdentifier([ClientAuthority(ca.certificate, names)], clock=lambda: clock[0])
    shown = peer(ca.issue(dns=["a.build.example"], not_before=NOW - DAY, not_after=NOW + DAY))
    assert who.identify(shown).name == "dns:a.build.example"
    clock[0] += 2 * 86400
    assert refused(who, shown) is Refusal.EXPIRED
    clock[0] -= 4 * 86400
    assert refused(who, shown) is Refusal.NOT_YET_VALID
    clock[0] += 2 * 86400
    assert who.identify(shown).name == "dns:a.build.example"


def test_the_expiry_of_a_ca_counts_too() -> None:
    clock = [NOW.timestamp()]
    root = CA("Root")
    middle = CA("Middle", parent=root, not_after=NOW + DAY)
    names = (CallerPattern.parse("dns:*.build.example"),)
    who = CertificateIdentifier([ClientAuthority(root.certificate, names)], clock=lambda: clock[0])
    shown = peer(middle.issue(dns=["a.build.example"], not_after=NOW + 9 * DAY))
    who.identify(shown)
    clock[0] += 2 * 86400
    assert refused(who, shown) is Refusal.EXPIRED


def test_a_renewed_intermediate_is_found_when_the_other_one_expires() -> None:
    """Which of two paths is taken is decided anew as soon as one of their certificates expires."""
    clock = [NOW.timestamp()]
    root = CA("Root")
    old = CA("Middle", parent=root, not_after=NOW + DAY)
    new = CA("Middle", parent=root, key=old.key)
    who = CertificateIdentifier(
        [ClientAuthority(root.certificate, (CallerPattern.parse("dns:*.build.example"),))], clock=lambda: clock[0]
    )
    issued = old.issue(dns=["a.build.example"])
    shown = Peer("", issued.pem, issued.chain_pem + new.pem)
    assert who.identify(shown).name == "dns:a.build.example"
    clock[0] += 2 * 86400
    assert who.identify(shown).name == "dns:a.build.example"


def test_denied_certificates(ca: CA) -> None:
    first, second, third = (ca.issue(dns=["a.build.example"]) for _ in range(3))
    denied = DeniedCertificates(frozenset({first.fingerprint}), frozenset({second.certificate.serial_number}))
    who = identifier((ca, ["dns:*.build.example"]), denied=denied)
    for bad in (first, second):
        with pytest.raises(CertificateError) as caught:
            who.identify(peer(bad))
        assert caught.value.refusal is Refusal.DENIED
        assert caught.value.proof is not None
        assert caught.value.proof.details["certificate"] == bad.fingerprint
    assert who.identify(peer(third)).proof.details["certificate"] == third.fingerprint


def test_a_denied_intermediate_takes_its_certificates_along() -> None:
    root = CA("Root")
    middle = CA("Middle", parent=root)
    denied = DeniedCertificates(serials=frozenset({middle.certificate.serial_number}))
    who = identifier((root, ["dns:*.build.example"]), denied=denied)
    assert refused(who, peer(middle.issue(dns=["a.build.example"]))) is Refusal.DENIED


def test_the_proof_names_certificate_and_authority(ca: CA) -> None:
    issued = ca.issue(dns=["a.build.example"])
    proof = identifier((ca, ["dns:*.build.example"])).identify(peer(issued)).proof
    assert proof.method == "mtls"
    assert proof.details["certificate"] == issued.fingerprint
    assert int(proof.details["serial"], 16) == issued.certificate.serial_number


def test_an_address_that_another_caller_uses_again(ca: CA) -> None:
    who = identifier((ca, ["dns:*.build.example"]))
    one, two = ca.issue(dns=["a.build.example"]), ca.issue(dns=["b.build.example"])
    assert [who.identify(peer(each)).name for each in (one, two, one)] == [
        "dns:a.build.example",
        "dns:b.build.example",
        "dns:a.build.example",
    ]


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (Peer("x"), Refusal.ABSENT),
        (Peer("x", b"no certificate"), Refusal.UNREADABLE),
        (Peer("x", b"", b"also none"), Refusal.ABSENT),
    ],
)
def test_no_certificate(ca: CA, shown: Peer, why: Refusal) -> None:
    assert refused(identifier((ca, ["dns:*.build.example"])), shown) is why


def test_without_tls_everybody_is_the_same() -> None:
    assert InsecureIdentifier().identify(Peer("unix:")).name == "local:insecure"


def test_many_certificates_do_not_fill_the_memory(ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CertificateIdentifier, "_MAX_CACHED", 3)
    who = identifier((ca, ["dns:*.build.example"]))
    for number in range(10):
        who.identify(peer(ca.issue(dns=[f"a{number}.build.example"])))
    assert len(who._verdicts) <= 3
