"""The app's folder: which public key the app trusts, and private keys that lie about. (What node evaluates is in
tests/interop.)"""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from privyseal import capgo, private_keys
from privyseal.errors import ConfigurationError, InputError
from privyseal.exec import app
from privyseal.exec.child import PLACEHOLDER
from tests.support.signers import VECTORS

PEM = (VECTORS / "capgo-v3" / "public.pem").read_text()
OTHER_PEM = (VECTORS / "capgo-v2" / "public.pem").read_text()
KEY = capgo.load_public_key(PEM)


def configured(folder, public_key, **updater):
    settings = dict(updater) if public_key is None else {"publicKey": public_key, **updater}
    path = folder / "capacitor.config.json"
    path.write_text(json.dumps({"appId": "com.example.app", "plugins": {"CapacitorUpdater": settings}}))
    return app.read_config(path, {})


@pytest.mark.parametrize(
    "pem",
    [PEM, PEM.rstrip("\n"), PEM.replace("\n", "\r\n"), PEM.replace("\n", ""), f"\n {PEM}\n"],
    ids=["as it is", "no newline at the end", "CRLF", "one line", "space around"],
)
def test_the_key_that_the_app_trusts_is_accepted(tmp_path, pem):
    config = configured(tmp_path, pem)
    app.check_public_key(config, "demo", KEY)
    assert (config.app_id, config.has_private_key) == ("com.example.app", False)


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (None, "has no plugins.CapacitorUpdater.publicKey"),
        ("", "has no plugins.CapacitorUpdater.publicKey"),
        (OTHER_PEM, 'holds another publicKey than that of the key "demo" at the service'),
        (capgo.spki_pem(KEY), "as SPKI (BEGIN PUBLIC KEY), with which the app fails at its start"),
        ("junk", "is not an RSA public key in PKCS#1 PEM"),
        (PEM.replace("MII", "%II"), "is not an RSA public key in PKCS#1 PEM"),
        (PEM[:-20], "is not an RSA public key in PKCS#1 PEM"),
    ],
    ids=["none", "empty", "another", "SPKI", "junk", "not base64", "cut off"],
)
def test_any_other_is_refused_with_the_text_to_put_in(tmp_path, pem, problem):
    config = configured(tmp_path, pem)
    with pytest.raises(ConfigurationError) as raised:
        app.check_public_key(config, "demo", KEY)
    assert problem in raised.value.message
    line = raised.value.remedy.splitlines()[-1]
    assert json.loads("{" + line + "}") == {"publicKey": PEM}  # it can be pasted into JSON, .js and .ts as it is


def test_configurations_are_looked_for_as_the_cli_does(tmp_path):
    assert app.find_config(tmp_path) is None
    for name in ("capacitor.config.json", "capacitor.config.js", "capacitor.config.ts"):
        (tmp_path / name).touch()
        found = app.find_config(tmp_path)
        assert found is not None
        assert found.name == name
    assert app.find_config(tmp_path, "capacitor.config.json") == tmp_path / "capacitor.config.json"
    with pytest.raises(InputError, match=r"capacitor\.config\.prod\.json does not exist"):
        app.find_config(tmp_path, "capacitor.config.prod.json")


@pytest.mark.parametrize("text", ["", "{", "[1]\x00"])
def test_json_that_cannot_be_read_is_an_error(tmp_path, text):
    (tmp_path / "capacitor.config.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        app.read_config(tmp_path / "capacitor.config.json", {})


@pytest.mark.parametrize("text", ["[]", "{}", '{"plugins": 1}', '{"plugins": {"CapacitorUpdater": [1]}}', '"x"'])
def test_json_of_another_shape_has_no_public_key(tmp_path, text):
    (tmp_path / "capacitor.config.json").write_text(text)
    config = app.read_config(tmp_path / "capacitor.config.json", {})
    assert (config.public_key, config.app_id, config.has_private_key) == (None, "", False)


def test_a_private_key_in_the_configuration_is_seen(tmp_path):
    assert configured(tmp_path, PEM, privateKey="anything").has_private_key


def test_private_keys_are_found_whatever_their_names_and_forms(tmp_path):
    key = rsa.generate_private_key(65537, 2048)
    for name, form, encryption in (
        (".capgo_key_v2", PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        ("notes.txt", PrivateFormat.PKCS8, NoEncryption()),
        ("sealed.pem", PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    ):
        (tmp_path / name).write_bytes(b"# a key\n" + key.private_bytes(Encoding.PEM, form, encryption))
    (tmp_path / "placeholder.pem").write_bytes(PLACEHOLDER.read_bytes())
    (tmp_path / "public.pem").write_text(PEM)
    (tmp_path / "README.md").write_text("-----BEGIN RSA PRIVATE KEY----- is how a key begins")
    (tmp_path / "big.bin").write_bytes(bytes(1 << 20))
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert [path.name for path in private_keys.private_keys(tmp_path)] == [".capgo_key_v2", "notes.txt", "sealed.pem"]


def test_the_placeholder_is_no_key():
    text = PLACEHOLDER.read_text()
    assert text.startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    assert text.endswith("\n-----END RSA PRIVATE KEY-----\n")
    assert not private_keys.is_private_key(text.encode())
