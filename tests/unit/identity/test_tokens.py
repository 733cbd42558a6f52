"""From a token to a name: what proves one, and the reason in the log for whatever does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privyseal_service.config.issuers import Algorithm, IssuerConfig
from privyseal_service.domain.caller import Caller, IdentityError, Peer
from privyseal_service.identity.jwks import NO_KEYS, KeySet, KeySetError, parse_key_set
from privyseal_service.identity.tokens import Issuer, TokenIdentifier, claim_text
from tests.support.tokens import AUDIENCE, ISSUER, SUBJECT, issuer_settings, jwk, key_set, rsa_key, token, unsigned

ALL = tuple(Algorithm.__args__)  # type: ignore[attr-defined]


class Held:
    """Keys that a test holds."""

    def __init__(self, keys: KeySet) -> None:
        self.now = keys
        self.missed = 0

    def miss(self) -> None:
        self.missed += 1


def config(**more: object) -> IssuerConfig:
    return IssuerConfig.model_validate_json(json.dumps(issuer_settings("jwks.json", **more)))


def held(*jwks: dict[str, object], algorithms: tuple[str, ...] = ALL) -> Held:
    return Held(parse_key_set(key_set(*jwks), algorithms))


def identifier(keys: Held | None = None, clock: Callable[[], float] = time.time, **more: object) -> TokenIdentifier:
    return TokenIdentifier([Issuer(config(**more), keys or held(jwk(rsa_key(), "a")))], clock=clock)


def peer(*values: str) -> Peer:
    return Peer("ipv4:127.0.0.1:1", authorization=values)


def caller(who: TokenIdentifier, shown: str) -> Caller:
    return who.identify(peer(f"Bearer {shown}"))


def refusal(who: TokenIdentifier, *values: str) -> str:
    with pytest.raises(IdentityError) as caught:
        who.identify(peer(*values))
    for value in values:
        for part in value.removeprefix("Bearer ").split("."):
            assert len(part) < 20 or part not in str(caught.value)
    return str(caught.value)


def test_the_name_is_of_issuer_and_subject_and_the_claims_are_kept() -> None:
    found = caller(identifier(), token(runner_id=7, ref_protected=True, workflow="not kept"))
    assert found.name == f"oidc:{ISSUER}:{SUBJECT}"
    assert dict(found.claims) == {"repository": "octo-org/app", "ref": "refs/heads/main", "environment": "production"}
    assert found.proof.method == "oidc"
    assert found.proof.details == {"issuer": ISSUER, "subject": SUBJECT, **dict(found.claims)}


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_rsa(algorithm: str) -> None:
    assert caller(identifier(algorithms=[algorithm]), token(algorithm=algorithm)).name.endswith(SUBJECT)


@pytest.mark.parametrize(
    ("curve", "algorithm"), [(ec.SECP256R1(), "ES256"), (ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")]
)
def test_ec(curve: ec.EllipticCurve, algorithm: str) -> None:
    key = ec.generate_private_key(curve)
    who = identifier(held(jwk(key, "e")), algorithms=["ES256", "ES384", "ES512"])
    assert caller(who, token(key, kid="e", algorithm=algorithm)).name.endswith(SUBJECT)


def test_ed25519() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    who = identifier(held(jwk(key, "e")), algorithms=["EdDSA"])
    assert caller(who, token(key, kid="e", algorithm="EdDSA")).name.endswith(SUBJECT)


def test_one_of_several_audiences() -> None:
    who = identifier(audiences=["other", AUDIENCE])
    for audience in (AUDIENCE, [AUDIENCE], ["https://elsewhere.example", AUDIENCE]):
        assert caller(who, token(aud=audience)).name.endswith(SUBJECT)


def hs256(secret: bytes) -> str:
    """A token signed with what everybody knows, as a server is tricked that lets the token choose."""
    head, body, _ = unsigned({"alg": "HS256", "kid": "a", "typ": "JWT"}).split(".")
    mac = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def public_pem() -> bytes:
    return rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_der() -> bytes:
    return rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def now() -> int:
    """Read when a test runs, not when tests are collected: minutes lie between."""
    return int(time.time())


TRICKS: dict[str, tuple[Callable[[], str], str]] = {
    "none": (lambda: unsigned({"alg": "none", "kid": "a"}, b"x"), "not signed with RS256"),
    "None in other letters": (lambda: unsigned({"alg": "nOnE", "kid": "a"}, b"x"), "not signed with RS256"),
    "no alg": (lambda: unsigned({"kid": "a"}, b"x"), ""),
    "HS256 with the public key, PEM": (lambda: hs256(public_pem()), "not signed with RS256"),
    "HS256 with the public key, DER": (lambda: hs256(public_der()), "not signed with RS256"),
    "an algorithm that is not allowed": (lambda: token(algorithm="RS512"), "not signed with RS256"),
    "an unknown kid": (lambda: token(kid="z"), "its kid is none of the issuer's keys"),
    "no kid": (lambda: token(kid=None), "has no kid"),
    "another's key under the kid": (lambda: token(rsa_key("b")), "its signature is not the key's"),
    "a key of its own in the header": (
        lambda: token(rsa_key("b"), header={"jwk": jwk(rsa_key("b"), "a")}), "its signature is not the key's"),
    "an extension that nobody knows": (lambda: unsigned({"alg": "RS256", "kid": "a", "crit": ["x"]}), ""),
    "no signature": (lambda: token().rpartition(".")[0] + ".", "not Bearer"),
    "a changed claim": (
        lambda: ".".join((token().split(".")[0], unsigned({}, sub="x").split(".")[1], token().split(".")[2])),
        "its signature is not the key's"),
    "another audience": (lambda: token(aud="https://elsewhere.example"), "another audience"),
    "no audience": (lambda: token(aud=None), ""),
    "an audience that begins alike": (lambda: token(aud=f"{AUDIENCE}.evil.example"), "another audience"),
    "an unknown issuer": (lambda: token(iss="https://evil.example"), "none of the issuers"),
    "an issuer with a slash more": (lambda: token(iss=f"{ISSUER}/"), "none of the issuers"),
    "an issuer that is a list": (lambda: unsigned({"alg": "RS256", "kid": "a"}, b"x", iss=[ISSUER]), ""),
    "expired": (lambda: token(exp=now() - 60), "has expired"),
    "not yet valid": (lambda: token(nbf=now() + 120), "not valid yet"),
    "issued in the future": (lambda: token(iat=now() + 120, nbf=None), "not valid yet"),
    "no end": (lambda: token(exp=None), "MissingRequiredClaimError"),
    "no beginning": (lambda: token(iat=None), "MissingRequiredClaimError"),
    "no subject": (lambda: token(sub=None), "MissingRequiredClaimError"),
    "an end that is true": (lambda: token(exp=True), "exp is no time"),
    "an end that is text": (lambda: token(exp="tomorrow"), "exp is no time"),
    "an end that never comes": (lambda: token(exp=10**15), "exp is no time"),
    "old and long-lived": (lambda: token(iat=now() - 4000, nbf=None, exp=now() + 4000), "issued too long ago"),
    "a wildcard for a subject": (lambda: token(sub="repo:octo-org/*"), "subject must be printable ASCII"),
    "an encoded slash": (lambda: token(sub="repo:octo-org%2Fapp:ref:x"), "subject must be printable ASCII"),
    "a look-alike": (lambda: token(sub="repo:octo-\u043erg/app:ref:x"), "subject must be printable ASCII"),
    "a subject with a line's end": (lambda: token(sub="repo:a/b\nrepo:c/d"), "subject must be printable ASCII"),
    "a subject without end": (lambda: token(sub="r" * 300), "no longer than 256"),
    "an empty subject": (lambda: token(sub=""), "subject must be"),
    "a subject that is a number": (lambda: token(sub=7), ""),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks(trick: str) -> None:
    make, says = TRICKS[trick]
    assert says in refusal(identifier(), f"Bearer {make()}")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "no authorization header"),
        (["Bearer x.y.z", "Bearer x.y.z"], "more than one authorization header"),
        ([""], "not Bearer"),
        (["Basic eDp5"], "not Bearer"),
        (["Bearer"], "not Bearer"),
        (["Bearer x"], "not Bearer"),
        (["Bearer x.y.z.a.b"], "not Bearer"),
        (["Bearer x.y.z\n"], "not Bearer"),
        (["Bearer \u0445.y.z"], "not Bearer"),
        (["Bearer x.y.z"], "cannot be parsed"),
        (["Bearer " + "x" * 8200], "more than 8192 characters"),
        (["Bearer " + "A" * 4000 + ".A.A"], "cannot be parsed"),
    ],
)
def test_headers(values: list[str], says: str) -> None:
    assert says in refusal(identifier(), *values)


def test_a_payload_that_is_nested_without_end() -> None:
    nested = base64.urlsafe_b64encode(b"[" * 3000 + b"]" * 3000).decode().rstrip("=")
    head = unsigned({"alg": "RS256", "kid": "a"}).split(".")[0]
    refusal(identifier(), f"Bearer {head}.{nested[:7000]}.AAAA")


def test_a_key_whose_own_algorithm_is_another() -> None:
    who = identifier(held(jwk(rsa_key(), "a", alg="PS256")), algorithms=["RS256", "PS256"])
    assert "not for the algorithm" in refusal(who, f"Bearer {token()}")
    assert caller(who, token(algorithm="PS256"))


def test_required_claims() -> None:
    wanted = {"repository": ["octo-org/*"], "environment": "production"}
    assert caller(identifier(required_claims=wanted), token())
    for changes in ({"environment": "staging"}, {"environment": None}, {"repository": "octo-org/a/b"},
                    {"repository": "evil/app"}, {"environment": ["production"]}):  # fmt: skip
        assert "is not there, or not as" in refusal(identifier(required_claims=wanted), f"Bearer {token(**changes)}")


def test_a_token_is_no_good_after_its_end_however_well_it_was_known() -> None:
    clock = [time.time()]
    who = identifier(clock=lambda: clock[0], clock_skew_s=0)
    shown = token()
    assert caller(who, shown)
    clock[0] += 301
    assert "expired" in refusal(who, f"Bearer {shown}")
    clock[0] -= 400
    assert "not valid yet" in refusal(who, f"Bearer {shown}")


def test_the_skew_of_clocks() -> None:
    clock = [time.time()]
    who = identifier(clock=lambda: clock[0], clock_skew_s=30)
    shown = token()
    clock[0] += 320
    assert caller(who, shown)
    clock[0] += 20
    assert "expired" in refusal(who, f"Bearer {shown}")


def test_a_token_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    who, shown = identifier(), token()
    first = caller(who, shown)
    monkeypatch.delattr(jwt, "decode")
    assert caller(who, shown) is first


def test_a_key_that_is_gone_takes_its_tokens_along() -> None:
    keys = held(jwk(rsa_key(), "a"))
    who, shown = identifier(keys), token()
    assert caller(who, shown)
    keys.now = held(jwk(rsa_key("b"), "b")).now
    assert "its kid is none" in refusal(who, f"Bearer {shown}")
    keys.now = held(jwk(rsa_key("b"), "a")).now
    assert "its signature is not the key's" in refusal(who, f"Bearer {shown}")
    keys.now = NO_KEYS
    assert "none of the issuer's keys are known now" in refusal(who, f"Bearer {shown}")
    assert keys.missed == 2


def test_many_tokens_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenIdentifier, "_MAX_CACHED", 3)
    who = identifier()
    for number in range(8):
        caller(who, token(jti=str(number)))
    assert len(who._known) <= 3


def test_nothing_of_a_token_is_kept() -> None:
    who, shown = identifier(), token()
    caller(who, shown)
    for part in shown.split("."):
        assert part not in repr(who.__dict__)
    assert shown not in repr(peer(f"Bearer {shown}"))


@pytest.mark.parametrize(
    ("value", "text"),
    [("main", "main"), (7, "7"), (True, "true"), (False, "false"), (None, None), (1.5, None), (["a"], None), ("", ""),
     ("a\nb", None), ("x" * 513, None), (1 << 70, None), ({}, None)],
)  # fmt: skip
def test_claims_as_text(value: object, text: str | None) -> None:
    assert claim_text(value) == text


# --- JWK sets ---


def test_keys_that_are_passed_over() -> None:
    small = jwk(rsa_key("small", 1024), "small")
    good = jwk(rsa_key(), "a", use="sig", alg="RS256", x5c=["AAAA"])
    others = [
        small,
        jwk(rsa_key("b"), "enc", use="enc"),
        jwk(rsa_key("b"), "ops", key_ops=["sign"]),
        jwk(ec.generate_private_key(ec.SECP256K1()), "k1"),
        jwk(ec.generate_private_key(ec.SECP256R1()), "es"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {**jwk(rsa_key("b"), "private"), "d": "AQAB"},
        {**jwk(rsa_key("b"), "torn"), "n": "?"},
        {**jwk(rsa_key("b"), "odd"), "alg": ["RS256"]},
        {name: value for name, value in jwk(rsa_key("b"), "x").items() if name != "kid"},
        {**jwk(rsa_key("b"), "listed"), "kty": ["RSA"]},
        {**jwk(rsa_key("b"), "seven"), "key_ops": 7},
        {**jwk(rsa_key("b"), "used"), "use": ["sig"]},
        {"kty": "RSA", "kid": "bare"},
        {"kty": "OKP", "kid": "curveless"},
        "text",
    ]
    found = parse_key_set(key_set(*others, good), ["RS256"])  # type: ignore[arg-type]
    assert list(found.keys) == ["a"]
    assert len(found.notes) == len(others)
    assert "RSA of 1024 bits" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is no JWK set"),
        (b"[]", "is no JWK set"),
        (b"{}", "is no JWK set"),
        (b'{"keys": {}}', "does not have a list"),
        (b'{"keys": []}', "has no key that could verify"),
        (b"[" * 100_000, "is no JWK set"),
        (b" " * 300_000, "is longer than"),
        (key_set(*[{}] * 65), "does not have a list"),
        (key_set(jwk(rsa_key(), "a"), jwk(rsa_key("b"), "a")), "two keys of one kid"),
        (key_set(jwk(rsa_key("small", 1024), "a")), "RSA of 1024 bits"),
    ],
)
def test_what_is_no_key_set(text: bytes, says: str) -> None:
    with pytest.raises(KeySetError, match=says):
        parse_key_set(text, ["RS256"])
