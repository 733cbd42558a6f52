"""Which certificates are accepted and which are refused: one table, held against the identifier of a listener."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privyseal_service.domain.caller import Peer
from privyseal_service.domain.names import CallerPattern
from privyseal_service.identity.certificate_path import PathError, check_authority
from privyseal_service.identity.certificates import CertificateError, CertificateIdentifier, ClientAuthority, Refusal

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
CLIENT, SERVER, ANY = (
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)
SPIFFE = "spiffe://example/build"

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Extension = tuple[x509.ExtensionType, bool]


def p256() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


RSA_2048 = rsa.generate_private_key(65537, 2048)
RSA_1024 = rsa.generate_private_key(65537, 1024)


def usage(*, signs: bool) -> Extension:
    """A key usage: for signatures, or for certificates."""
    bits = {"content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"}
    return (
        x509.KeyUsage(
            digital_signature=not signs,
            key_cert_sign=signs,
            crl_sign=signs,
            decipher_only=False,
            **dict.fromkeys(bits, False),
        ),
        True,
    )


BASIC: Extension = (x509.BasicConstraints(ca=True, path_length=None), True)
NOT_CA: Extension = (x509.BasicConstraints(ca=False, path_length=None), True)
FOR_CLIENTS: Extension = (x509.ExtendedKeyUsage([CLIENT]), False)
UNKNOWN: Extension = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)


def san(*names: x509.GeneralName, critical: bool = True) -> Extension:
    return x509.SubjectAlternativeName(names), critical


def uri(name: str = SPIFFE) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(name)


@dataclass
class Entity:
    """One certificate with its key: of a CA unless `extensions` say otherwise."""

    name: str
    issuer: Entity | None = None
    extensions: Sequence[Extension] = (BASIC, usage(signs=True))
    key: Key = field(default_factory=p256)
    hash: HashAlgorithm | None = field(default_factory=SHA256)
    pss: bool = False
    start: datetime.datetime = NOW - DAY
    end: datetime.datetime = NOW + DAY
    v1: bool = False

    def __post_init__(self) -> None:
        issuer = self.issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.name))
            .issuer_name(name(issuer.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        key = issuer.key
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else self.hash
        pss = padding.PSS(padding.MGF1(SHA256()), 32) if self.pss else None
        # The library does not sign certificates with SHA-1.
        weak = isinstance(algorithm, SHA1)
        self.certificate = builder.sign(key, SHA256() if weak else algorithm, rsa_padding=pss)
        if weak or self.v1:
            self.certificate = signed_again(self.certificate, key, v1=self.v1)


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def signed_again(certificate: x509.Certificate, key: Key, *, v1: bool) -> x509.Certificate:
    """The same certificate in X.509's first version, which has no extensions, or signed with SHA-1."""
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))["tbs_certificate"]
    fields = {field: parsed[field] for field, value in parsed.native.items() if value is not None}
    if v1:
        fields["version"] = "v1"
        fields.pop("extensions", None)
    else:
        fields["signature"] = {"algorithm": "sha1_rsa"}
    tbs = asn1_x509.TbsCertificate(fields)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(tbs.dump(), padding.PKCS1v15(), SHA256() if v1 else SHA1())
    else:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = key.sign(tbs.dump(), ec.ECDSA(SHA256()))
    again = {"tbs_certificate": tbs, "signature_algorithm": fields["signature"], "signature_value": signature}
    return x509.load_der_x509_certificate(asn1_x509.Certificate(again).dump())


def key_id(entity: Entity) -> Extension:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(entity.key.public_key()), False


def issuer_and_serial(entity: Entity) -> Extension:
    """The authority key identifier as EasyRSA writes it."""
    names = [x509.DirectoryName(name(entity.name))]
    digest = x509.SubjectKeyIdentifier.from_public_key(entity.key.public_key()).digest
    return x509.AuthorityKeyIdentifier(digest, names, entity.certificate.serial_number), False


@dataclass(frozen=True)
class Shown:
    """What a peer sends, and the CAs that its listener knows."""

    leaf: Entity
    sent: Sequence[Entity] = ()
    roots: Sequence[Entity] = ()


def leaf(issuer: Entity, *extensions: Extension, subject: str = "", **options: object) -> Entity:
    """A client's certificate with the SPIFFE ID and clientAuth, or with these extensions."""
    return Entity(subject, issuer, extensions or (san(uri()), FOR_CLIENTS), **options)  # type: ignore[arg-type]


def direct(*extensions: Extension, root: Entity | None = None, **options: object) -> Shown:
    root = root or Entity("Root")
    return Shown(leaf(root, *extensions, **options), roots=[root])  # type: ignore[arg-type]


def below(*ca_extensions: Extension, names: Sequence[x509.GeneralName] = (uri(),), **options: object) -> Shown:
    """A leaf under an intermediate that has these extensions."""
    root = Entity("Root")
    middle = Entity("Middle", root, ca_extensions or (BASIC, usage(signs=True)), **options)  # type: ignore[arg-type]
    return Shown(leaf(middle, san(*names), FOR_CLIENTS), [middle], [root])


def under_root(*extensions: Extension, **options: object) -> Shown:
    return direct(root=Entity("Root", None, extensions, **options))  # type: ignore[arg-type]


def constrained(permitted: Sequence[x509.GeneralName] | None, *names: x509.GeneralName) -> Shown:
    return below(BASIC, usage(signs=True), (x509.NameConstraints(permitted, None), True), names=names)


def with_key_ids() -> Shown:
    root = Entity("Root")
    middle = Entity("Middle", root, [BASIC, usage(signs=True), key_id(root)])
    return Shown(leaf(middle, san(uri()), FOR_CLIENTS, key_id(middle)), [middle], [root])


def as_easyrsa() -> Shown:
    root = Entity("Root")
    middle = Entity("Middle", root, [BASIC, usage(signs=True), issuer_and_serial(root)])
    return Shown(leaf(middle, san(uri()), FOR_CLIENTS, issuer_and_serial(middle)), [middle], [root])


def with_root_sent() -> Shown:
    shown = below()
    return Shown(shown.leaf, [*shown.sent, *shown.roots], shown.roots)


def in_any_order() -> Shown:
    root = Entity("Root")
    middle = Entity("Middle", root)
    low = Entity("Low", middle)
    end = leaf(low)
    return Shown(end, [root, low, end, middle], [root])


def deep(path_length: int) -> Shown:
    root = Entity("Root", None, [(x509.BasicConstraints(ca=True, path_length=path_length), True), usage(signs=True)])
    middle = Entity("Middle", root)
    low = Entity("Low", middle)
    return Shown(leaf(low), [low, middle], [root])


def bound_intermediate() -> Shown:
    middle = Entity("Middle", Entity("Root"))
    return Shown(leaf(middle), [], [middle])


def intermediate_missing() -> Shown:
    shown = below()
    return Shown(shown.leaf, [], shown.roots)


def leaf_under_leaf() -> Shown:
    root = Entity("Root")
    other = leaf(root, san(uri("spiffe://example/other")), FOR_CLIENTS, subject="Other")
    return Shown(leaf(other), [other], [root])


def the_ca_itself(*, named: bool) -> Shown:
    extensions = [BASIC, usage(signs=True), *([san(uri(), critical=False)] if named else [])]
    root = Entity("Root", None, extensions)
    return Shown(root, [], [root])


def intermediate_as_leaf() -> Shown:
    root = Entity("Root")
    return Shown(Entity("Middle", root, [BASIC, usage(signs=True), san(uri(), critical=False)]), [], [root])


def another_root_of_the_name() -> Shown:
    return Shown(leaf(Entity("Root")), roots=[Entity("Root")])


def two_roots_of_one_name() -> Shown:
    """A CA that was renewed with another key: both are trusted."""
    root = Entity("Root")
    return Shown(leaf(root), roots=[Entity("Root"), root])


def maze() -> Shown:
    """Five CAs that each may have issued each, and none of which the listener knows."""
    first = Entity("Root")
    others = [Entity("Root", first, key=first.key) for _ in range(4)]
    return Shown(leaf(first), [first, *others], [Entity("Root")])


def cross_signed(*, usages: Sequence[x509.ObjectIdentifier] | None = (SERVER,), unknown: bool = False) -> Shown:
    """An intermediate of one CA, cross-signed by the CA that vouches for the caller's name."""
    other, bound = Entity("Other root"), Entity("Root")
    middle = Entity("Middle", other)
    extensions = [BASIC, usage(signs=True), *([UNKNOWN] if unknown else [])]
    if usages is not None:
        extensions.append((x509.ExtendedKeyUsage(usages), False))
    again = Entity("Middle", bound, extensions, key=middle.key)
    return Shown(leaf(middle), [middle, again], [bound])


ACCEPTED: dict[str, Callable[[], Shown]] = {
    "no authority key identifier anywhere": direct,
    "authority key identifiers": with_key_ids,
    "authority key identifiers with issuer and serial number": as_easyrsa,
    "a root without key usage": lambda: under_root(BASIC),
    "an intermediate without key usage": lambda: below(BASIC),
    "only a URI among the names": lambda: direct(san(uri()), FOR_CLIENTS),
    "names that are not critical beside a subject": lambda: direct(san(uri(), critical=False), subject="Build"),
    "a SPIFFE ID and DNS names": lambda: direct(san(uri(), x509.DNSName("a.example"), x509.DNSName("b.example"))),
    "no extended key usage": lambda: direct(san(uri())),
    "extended key usages for both": lambda: direct(san(uri()), (x509.ExtendedKeyUsage([SERVER, CLIENT]), False)),
    "an unknown extension that is not critical": lambda: direct(san(uri()), (UNKNOWN[0], False)),
    "an intermediate": below,
    "an intermediate for clients": lambda: below(BASIC, usage(signs=True), FOR_CLIENTS),
    "an intermediate for anything": lambda: below(BASIC, usage(signs=True), (x509.ExtendedKeyUsage([ANY]), False)),
    "the root sent along": with_root_sent,
    "any order, with the leaf among them": in_any_order,
    "a path length that suffices": lambda: deep(2),
    "an intermediate as the bound CA": bound_intermediate,
    "two roots of one name": two_roots_of_one_name,
    "cross-signed for clients": lambda: cross_signed(usages=[CLIENT]),
    "cross-signed without extended key usage": lambda: cross_signed(usages=None),
    "a constraint on DNS names, and none in the certificate": lambda: constrained([x509.DNSName("example")], uri()),
    "a constraint on DNS names that is met": lambda: constrained(
        [x509.DNSName("example")], x509.DNSName("a.build.example")
    ),
    "P-384": lambda: direct(root=Entity("Root", key=ec.generate_private_key(ec.SECP384R1()))),
    "P-521": lambda: direct(root=Entity("Root", key=ec.generate_private_key(ec.SECP521R1())), hash=SHA512()),
    "RSA-2048": lambda: direct(root=Entity("Root", key=RSA_2048)),
    "RSA-2048 with PSS": lambda: direct(root=Entity("Root", key=RSA_2048), pss=True),
    "a root that signed itself with SHA-1": lambda: direct(root=Entity("Root", key=RSA_2048, hash=SHA1())),
}

REFUSED: dict[str, tuple[Callable[[], Shown], str]] = {
    "two DNS names": (lambda: direct(san(x509.DNSName("a.build.example"), x509.DNSName("b.build.example"))), "UNNAMED"),
    "no names": (lambda: direct(FOR_CLIENTS, subject="Build"), "UNNAMED"),
    "a leaf for servers": (lambda: direct(san(uri()), (x509.ExtendedKeyUsage([SERVER]), False)), "INVALID_PATH"),
    "a leaf for any use": (lambda: direct(san(uri()), (x509.ExtendedKeyUsage([ANY]), False)), "INVALID_PATH"),
    "an intermediate for servers": (
        lambda: below(BASIC, usage(signs=True), (x509.ExtendedKeyUsage([SERVER]), False)),
        "INVALID_PATH",
    ),
    "an intermediate for servers, cross-signed": (cross_signed, "INVALID_PATH"),
    "a root for servers": (
        lambda: under_root(BASIC, usage(signs=True), (x509.ExtendedKeyUsage([SERVER]), False)),
        "INVALID_PATH",
    ),
    "an unknown critical extension of a leaf": (lambda: direct(san(uri()), UNKNOWN), "INVALID_PATH"),
    "an unknown critical extension of an intermediate": (
        lambda: below(BASIC, usage(signs=True), UNKNOWN),
        "INVALID_PATH",
    ),
    "an unknown critical extension of one that is cross-signed": (
        lambda: cross_signed(usages=None, unknown=True),
        "INVALID_PATH",
    ),
    "an unknown critical extension of a root": (lambda: under_root(BASIC, usage(signs=True), UNKNOWN), "INVALID_PATH"),
    "a constraint on DNS names that is not met": (
        lambda: constrained([x509.DNSName("other.example")], x509.DNSName("a.build.example")),
        "INVALID_PATH",
    ),
    "a constraint on URIs, which the library does not evaluate": (
        lambda: constrained([x509.UniformResourceIdentifier("example")], uri()),
        "INVALID_PATH",
    ),
    "name constraints of a leaf": (
        lambda: direct(san(uri()), (x509.NameConstraints([x509.DNSName("example")], None), True)),
        "INVALID_PATH",
    ),
    "a path longer than its CA allows": (lambda: deep(1), "INVALID_PATH"),
    "an intermediate that is no CA": (lambda: below(NOT_CA, usage(signs=True)), "INVALID_PATH"),
    "an intermediate that may not sign certificates": (lambda: below(BASIC, usage(signs=False)), "INVALID_PATH"),
    "an intermediate without basic constraints": (lambda: below(usage(signs=True)), "INVALID_PATH"),
    "basic constraints that are not critical": (lambda: below((BASIC[0], False), usage(signs=True)), "INVALID_PATH"),
    "a root without basic constraints": (lambda: under_root(usage(signs=True)), "INVALID_PATH"),
    "a root that may not sign certificates": (lambda: under_root(BASIC, usage(signs=False)), "INVALID_PATH"),
    "a root of version 1": (lambda: under_root(v1=True), "INVALID_PATH"),
    "an intermediate of version 1": (lambda: below(v1=True), "INVALID_PATH"),
    "a leaf of version 1": (lambda: direct(v1=True), "UNNAMED"),
    "a leaf that another leaf issued": (leaf_under_leaf, "INVALID_PATH"),
    "a leaf that may sign certificates": (lambda: direct(san(uri()), usage(signs=True)), "INVALID_PATH"),
    "an intermediate as the leaf": (intermediate_as_leaf, "INVALID_PATH"),
    "the CA itself as the leaf": (lambda: the_ca_itself(named=True), "INVALID_PATH"),
    "the CA itself as the leaf, without a name": (lambda: the_ca_itself(named=False), "UNNAMED"),
    "an intermediate that was not sent": (intermediate_missing, "UNBOUND"),
    "another root of the name": (another_root_of_the_name, "INVALID_PATH"),
    "a maze": (maze, "INVALID_PATH"),
    "a leaf signed with SHA-1": (lambda: direct(root=Entity("Root", key=RSA_2048), hash=SHA1()), "INVALID_PATH"),
    "a leaf on RSA-1024": (lambda: direct(key=RSA_1024), "INVALID_PATH"),
    "a root on RSA-1024": (lambda: direct(root=Entity("Root", key=RSA_1024)), "INVALID_PATH"),
    "a leaf on Ed25519": (lambda: direct(key=ed25519.Ed25519PrivateKey.generate()), "INVALID_PATH"),
    "a root on Ed25519": (
        lambda: direct(root=Entity("Root", key=ed25519.Ed25519PrivateKey.generate())),
        "INVALID_PATH",
    ),
    "a leaf on P-224": (lambda: direct(key=ec.generate_private_key(ec.SECP224R1())), "INVALID_PATH"),
    "an expired leaf": (lambda: direct(start=NOW - 2 * DAY, end=NOW - DAY), "EXPIRED"),
    "a leaf of tomorrow": (lambda: direct(start=NOW + DAY, end=NOW + 2 * DAY), "NOT_YET_VALID"),
    "an expired intermediate": (lambda: below(start=NOW - 2 * DAY, end=NOW - DAY / 2), "EXPIRED"),
    "an intermediate of tomorrow": (lambda: below(start=NOW + DAY / 2, end=NOW + 2 * DAY), "NOT_YET_VALID"),
    "an expired root": (lambda: direct(root=Entity("Root", start=NOW - 2 * DAY, end=NOW - DAY / 2)), "EXPIRED"),
    "expired and for servers": (
        lambda: direct(san(uri()), (x509.ExtendedKeyUsage([SERVER]), False), start=NOW - 2 * DAY, end=NOW - DAY),
        "INVALID_PATH",
    ),
}


def identify(shown: Shown, *, names: Sequence[str] = ("spiffe://example/**", "dns:*.build.example", "cn:Build")) -> str:
    """The caller that the certificate proves."""
    patterns = tuple(map(CallerPattern.parse, names))
    authorities = [ClientAuthority(root.certificate, patterns) for root in shown.roots]
    pem = [entity.certificate.public_bytes(Encoding.PEM) for entity in (shown.leaf, *shown.sent)]
    peer = Peer("ipv4:127.0.0.1:1", pem[0], b"".join(pem))
    return CertificateIdentifier(authorities).identify(peer).name


@pytest.mark.parametrize("shape", ACCEPTED)
def test_shapes_that_are_accepted(shape: str) -> None:
    assert identify(ACCEPTED[shape]()) in (SPIFFE, "dns:a.build.example")


@pytest.mark.parametrize("shape", REFUSED)
def test_shapes_that_are_refused(shape: str) -> None:
    make, why = REFUSED[shape]
    with pytest.raises(CertificateError) as caught:
        identify(make())
    assert caught.value.refusal is Refusal[why]
    assert (caught.value.proof is None) == (caught.value.refusal is Refusal.UNREADABLE)


FIT = (
    "no authority key identifier anywhere",
    "authority key identifiers with issuer and serial number",
    "a root without key usage",
    "P-521",
    "RSA-2048",
    "a root that signed itself with SHA-1",
    "an intermediate as the bound CA",
)
UNFIT = [shape for shape in REFUSED if shape.startswith("a root") or shape.endswith("extension of a root")]


@pytest.mark.parametrize("shape", FIT)
def test_cas_that_are_fit_for_client_certificates(shape: str) -> None:
    check_authority(ACCEPTED[shape]().roots[0].certificate)


@pytest.mark.parametrize("shape", UNFIT)
def test_cas_under_which_nothing_would_be_valid(shape: str) -> None:
    with pytest.raises(PathError):
        check_authority(REFUSED[shape][0]().roots[0].certificate)


def test_the_reasons_in_the_log() -> None:
    """The wording of each refusal, which an operator reads."""
    assert {shape: reason(REFUSED[shape][0]()) for shape in REASONS} == REASONS


def reason(shown: Shown) -> str:
    with pytest.raises(CertificateError) as caught:
        identify(shown)
    return str(caught.value)


NO_PATH = "no valid path leads to a client CA that may vouch for spiffe://example/build: "
REASONS = {
    "a leaf for servers": NO_PATH + "extendedKeyUsage of the client's certificate lacks clientAuth",
    "an intermediate for servers, cross-signed": NO_PATH + "extendedKeyUsage of a CA lacks clientAuth",
    "an unknown critical extension of a leaf": NO_PATH
    + "invalid extension: 1.3.6.1.4.1.99999.1: certificate contains unaccounted-for critical extensions",
    "an intermediate without basic constraints": NO_PATH
    + "invalid extension: basicConstraints (2.5.29.19): missing required extension: CA certificate has no"
    + " basicConstraints",
    "a path longer than its CA allows": NO_PATH + "path length constraint violated",
    "an intermediate that may not sign certificates": NO_PATH
    + "keyUsage.keyCertSign must be asserted in a CA certificate",
    "a constraint on URIs, which the library does not evaluate": NO_PATH + "unsupported name constraint",
    "a root on Ed25519": NO_PATH + "Forbidden public key algorithm: Ed25519",
    "a leaf signed with SHA-1": NO_PATH + "Forbidden signature algorithm: RsaWithSha1",
    "a leaf on RSA-1024": NO_PATH + "a key is neither RSA of 2048 bits or more nor EC on P-256, P-384 or P-521",
    "another root of the name": NO_PATH + "signature does not match",
    "a maze": NO_PATH + "fatal error: Exceeded maximum signature check limit",
    "an intermediate that was not sent": "no client CA that may vouch for spiffe://example/build issued the"
    " certificate",
    "no names": "the certificate has neither a SPIFFE ID nor a DNS name among its alternative names",
    "two DNS names": "the certificate has more than one DNS name, and a caller has one",
}
