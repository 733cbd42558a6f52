"""`key create`, `key import` and `check`, on a SoftHSM token and on the software store."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.support.serving import KEY, Place, configure_software, pem, sentence
from tests.support.softhsm import SoftHsmToken, make_token
from tests.support.token_keys import key_of, material


@pytest.fixture
def token(place: Place) -> SoftHsmToken:
    """A token, and a configuration of a key `demo` in it that is not there yet. Its PIN's file is named relatively."""
    token = make_token(place.folder, "ota")
    place.environment |= token.environment
    place.configure(key_of(place, token))
    return token


# --- SoftHSM ---


def test_create_check_and_serve(place: Place, token: SoftHsmToken) -> None:
    config = ("--config", str(place.config))
    before = place.run("check", *config, "--json")
    assert before.returncode == 1
    (missing,) = json.loads(before.stdout)["keys"]
    assert (missing["ok"], missing["part"]) == (False, "object")
    done = place.run("key", "create", *config, "demo")
    assert done.returncode == 0, done.stderr
    public_key = load_pem_public_key(done.stdout.encode())
    assert isinstance(public_key, rsa.RSAPublicKey)
    assert done.stdout.startswith("-----BEGIN RSA PUBLIC KEY-----\n")
    for said in ("made key 'demo': RSA-2048", "fingerprint", "Capgo key_id", "generated-inside, export never-possible"):
        assert said in done.stderr
    report = json.loads(place.run("check", *config, "--json").stdout)
    (key,) = report["keys"]
    assert report["ok"]
    assert key["fingerprint"] in done.stderr
    assert (key["protection"], key["origin"], key["export"]) == ("software", "generated-inside", "never-possible")
    with place.serving() as serving, serving.channel() as channel:
        request = pb.WrapSessionKeyRequest(session_key=bytes(16), scheme=pb.WRAP_SCHEME_CAPGO)
        answer = SigningServiceStub(channel).WrapSessionKey(request, timeout=20)
        public_key.verify(answer.wrapped_key, bytes(16), padding.PKCS1v15(), NoDigestInfo())  # type: ignore[arg-type]
        assert answer.key_version == key["key_version"]
        assert serving.stop() == 0
    assert "object: " in sentence(place.run("key", "create", *config, "demo"), 1)


def test_import_a_capgo_key(place: Place, token: SoftHsmToken, private_key: rsa.RSAPrivateKey) -> None:
    file = place.folder / ".capgo_key_v2"
    file.write_bytes(pem(private_key, PrivateFormat.TraditionalOpenSSL))
    done = place.run("key", "import", str(file), "--config", str(place.config), "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.encode() == private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    assert "imported, export possible-once" in done.stderr
    assert f"Destroy {file} and every other copy" in done.stderr
    assert not [secret for secret in (*material(private_key), token.pin) if secret in done.stdout + done.stderr]
    assert file.read_bytes()
    checked = place.run("check", "--config", str(place.config))
    assert checked.returncode == 0, checked.stdout
    assert "origin imported" in checked.stdout


def test_create_by_uri(place: Place, token: SoftHsmToken, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = token.uri("other")
    done = place.run("key", "create", "--uri", uri, "--purpose", "signatures", "--bits", "3072")
    assert done.returncode == 0, done.stderr
    assert "RSA-3072 for signatures (RSASSA)" in done.stderr
    place.configure(key_of(place, token, "other", '"rsassa-pss-sha256", "rsassa-pkcs1-v1_5-sha256"'), grants="")
    checked = place.run("check", "--config", str(place.config))
    assert checked.returncode == 0, checked.stdout
    assert "note: no grant names this key" in checked.stdout


def test_the_purpose_follows_from_the_schemes(place: Place, token: SoftHsmToken) -> None:
    place.configure(key_of(place, token, "demo", '"rsaes-oaep-sha1"'))
    wrong = place.run("key", "create", "--config", str(place.config), "demo", "--purpose", "capgo")
    assert "rsaes-oaep-sha1" in sentence(wrong, 2)
    done = place.run("key", "create", "--config", str(place.config), "demo")
    assert done.returncode == 0, done.stderr
    with place.serving() as serving, serving.channel() as channel:
        signing = SigningServiceStub(channel)
        scheme = pb.WRAP_SCHEME_RSAES_OAEP_SHA1
        wrapped = signing.WrapSessionKey(pb.WrapSessionKeyRequest(session_key=b"k" * 32, scheme=scheme), timeout=20)
        request = pb.UnwrapSessionKeyRequest(wrapped_key=wrapped.wrapped_key, scheme=scheme)
        assert signing.UnwrapSessionKey(request, timeout=20).session_key == b"k" * 32
        with pytest.raises(grpc.RpcError) as caught:
            signing.UnwrapSessionKey(pb.UnwrapSessionKeyRequest(wrapped_key=bytes(256), scheme=scheme), timeout=20)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_oaep_sha256_on_a_token_with_sha1_alone(place: Place, token: SoftHsmToken) -> None:
    """Older SoftHSM; a newer one that can do it makes the key serve."""
    place.configure(key_of(place, token, "demo", '"rsaes-oaep-sha1"'))
    assert place.run("key", "create", "--config", str(place.config), "demo").returncode == 0
    place.configure(key_of(place, token, "demo", '"rsaes-oaep-sha256"'))
    (key,) = json.loads(place.run("check", "--config", str(place.config), "--json").stdout)["keys"]
    assert (key["ok"], key["part"]) in [(False, "mechanism"), (True, "")]
    assert key["ok"] or "rsaes-oaep-sha1" in key["remedy"] + key["message"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda config, _: config.replace("libsofthsm2.so", "libnone.so"), "module"),
        (lambda config, _: config.replace("token=ota", "token=other"), "token"),
        (lambda config, token: (token.pin_file.write_text("wrong\n"), config)[1], "PIN"),
        (lambda config, token: (token.pin_file.unlink(), config)[1], "PIN"),
        (lambda config, _: config.replace("object=demo", "object=other"), "object"),
        (lambda config, _: config.replace("pin-source=", "pin-value="), "URI"),
    ],
    ids=["module", "token", "wrong PIN", "no PIN", "object", "URI"],
)
def test_check_names_the_part(place: Place, token: SoftHsmToken, change, part: str) -> None:
    place.config.write_text(change(place.config.read_text(), token))
    done = place.run("check", "--config", str(place.config))
    assert done.returncode == 1
    assert f"FAIL  key demo: {part}: " in done.stdout
    assert "ok    listener 127.0.0.1:0: " in done.stdout
    assert not [
        secret for secret in (token.pin, "wrong") if secret in done.stdout.replace("wrong PIN", "") + done.stderr
    ]


# --- key import: files ---


def test_pkcs8_is_imported(software: Place) -> None:
    private_key = rsa.generate_private_key(65537, 2048)
    file = software.folder / "import.pem"
    file.write_bytes(b"Bag Attributes: none\n" + pem(private_key))
    done = software.run("key", "import", str(file), "--uri", "software:new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.encode() == private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)


def test_what_the_configuration_forbids_is_not_imported(software: Place) -> None:
    configure_software(software, key=KEY + 'fingerprint = "' + "0" * 64 + '"\n')
    file = software.folder / "import.pem"
    file.write_bytes(pem(rsa.generate_private_key(65537, 2048)))
    sentence(software.run("key", "import", str(file), "--config", str(software.config), "demo"), 2)


def test_a_pinned_key_is_not_created(software: Place) -> None:
    configure_software(software, key=KEY + 'fingerprint = "' + "0" * 64 + '"\n')
    done = software.run("key", "create", "--config", str(software.config), "demo")
    sentence(done, 2)


def test_a_key_that_is_made_and_yet_below_the_bar(software: Place) -> None:
    key = KEY.replace("software:demo", "software:new") + 'custody = { protection = "hardware" }\n'
    configure_software(software, key=key)
    done = software.run("key", "create", "--config", str(software.config), "demo")
    assert done.returncode == 1
    assert "custody: " in done.stderr
    assert done.stdout.startswith("-----BEGIN RSA PUBLIC KEY-----")


def test_stores_that_make_no_keys_or_are_away(software: Place) -> None:
    done = software.run("key", "create", "--uri", "awskms:///alias/x")
    assert "backend: " in sentence(done, 2)
    configure_software(software, key=KEY.replace("software:demo", "software:new"), away=True)
    assert "network: " in sentence(software.run("key", "create", "--config", str(software.config), "demo"), 3)
    assert "'x'" in sentence(software.run("key", "create", "--config", str(software.config), "x"), 2)


def test_one_key_under_two_names_for_two_purposes(place: Place, token: SoftHsmToken) -> None:
    capgo = key_of(place, token)
    other = capgo.replace('name = "demo"', 'name = "other"')
    place.run("key", "create", "--config", str(place.config), "demo")
    place.configure(capgo + other)
    assert place.run("check", "--config", str(place.config)).returncode == 0
    place.configure(capgo + other.replace('"capgo", "capgo-v3"', '"rsassa-pss-sha256"'))
    checked = place.run("check", "--config", str(place.config), "--json")
    assert checked.returncode == 1
    assert [key["part"] for key in json.loads(checked.stdout)["keys"]] == ["object", "object"]
    assert "the same RSA key as 'other'" in checked.stdout
    assert "it is the same RSA key as" in sentence(place.run("serve", "--config", str(place.config)), 1)


# --- check: certificates ---


def test_check_looks_at_every_listener(software: Place) -> None:
    listener = software.config.read_text().partition("[[listeners]]")[2].partition("[[keys]]")[0]
    more = listener.replace("server", "second") + '\n[[listeners]]\naddress = "127.0.0.1:0"\nauth = "none"\n'
    software.config.write_text(software.config.read_text() + "\n[[listeners]]" + more)
    software.ca.issue(dns=["localhost"]).write(software.folder, "second")
    done = software.run("check", "--config", str(software.config), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert not report["ok"]
    assert [(found["ok"], found["part"]) for found in report["listeners"]] == [
        (True, ""),
        (False, "certificate"),
        (True, ""),
    ]
    assert report["listeners"][0]["notes"][0].startswith("its certificate expires in ")
    assert report["listeners"][2]["notes"] == [
        "it has no TLS and does not authenticate callers; use it for development only"
    ]
    assert report["keys"][0]["ok"]


def test_check_goes_on_when_a_store_is_away(software: Place) -> None:
    configure_software(software, away=True)
    done = software.run("check", "--config", str(software.config))
    assert done.returncode == 1
    assert "FAIL  key demo: network: " in done.stdout
    assert "ok    listener" in done.stdout


def test_check_needs_a_configuration(software: Place) -> None:
    assert "there is no such file" in sentence(software.run("check", "--config", str(Path("/nonexistent"))), 2)
