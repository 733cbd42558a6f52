"""The configuration: what it accepts, and the sentence for whatever it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import JsonValue

from privyseal_backends.interface import Export, Origin, Protection
from privyseal_service.config.loading import load_config
from privyseal_service.config.tables import ConfigError
from privyseal_service.domain.caller import DeniedCertificates
from privyseal_service.domain.key_uris import resolve_paths, resolve_settings
from privyseal_service.domain.operations import SignatureScheme, WrapScheme
from privyseal_service.system.addresses import is_local

LISTENER = """
[[listeners]]
address = "127.0.0.1:0"
auth = "mtls"
certificate = "server.pem"
certificate_key = "keys/server.pem"
client_cas = [{ file = "ca.pem", names = ["dns:*.build.example"] }]
"""
KEY = """
[[keys]]
name = "demo"
uri = "pkcs11:token=t;object=demo?module-path=/m.so&pin-source=file:pin.txt"
schemes = ["capgo", "capgo-v3"]
"""
GRANT = """
[[grants]]
name = "farm"
callers = ["dns:a.build.example"]
keys = ["demo"]
operations = ["sign-checksum"]
"""


def load(tmp_path: Path, text: str) -> object:
    file = tmp_path / "server.toml"
    file.write_text(text)
    return load_config(file)


def test_the_smallest_and_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(LISTENER + KEY)
    config = load_config(file)
    assert config.server.shutdown_grace_s == 10.0
    assert config.grants == ()
    assert config.log.format == "console"
    bar = config.keys[0].custody
    assert (bar.protection, bar.origin, bar.export) == (Protection.UNKNOWN, Origin.UNKNOWN, Export.POSSIBLE_ONCE)
    assert not config.keys[0].required
    assert not config.listeners[0].allow_common_name
    assert config.identity.denied() == DeniedCertificates()


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    unix = '[[listeners]]\naddress = "unix:run/x.sock"\nauth = "none"\n'
    (tmp_path / "etc" / "server.toml").write_text(LISTENER + unix + KEY)
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("etc/server.toml"))
    etc = tmp_path / "etc"
    assert config.listeners[0].certificate == etc / "server.pem"
    assert config.listeners[0].certificate_key == etc / "keys" / "server.pem"
    assert config.listeners[0].client_cas[0].file == etc / "ca.pem"
    assert config.listeners[1].address == f"unix:{etc}/run/x.sock"
    assert config.keys[0].uri == f"pkcs11:token=t;object=demo?module-path=/m.so&pin-source=file:{etc}/pin.txt"


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("pkcs11:object=a?module-path=lib/m.so", "pkcs11:object=a?module-path=/my%20etc/lib/m.so"),
        ("pkcs11:object=a?module-path=%2Fm.so", "pkcs11:object=a?module-path=%2Fm.so"),
        ("pkcs11:object=a?pin-source=file:a%20b", "pkcs11:object=a?pin-source=file:/my%20etc/a%20b"),
        ("pkcs11:object=a?pin-source=file:///x", "pkcs11:object=a?pin-source=file:///x"),
        (
            "pkcs11:object=a?pin-source=env:PIN&module-path=m",
            "pkcs11:object=a?pin-source=env:PIN&module-path=/my%20etc/m",
        ),
        ("pkcs11:object=a?pin-source=credential:pin", "pkcs11:object=a?pin-source=credential:pin"),
        ("pkcs11:object=a?pin-source=file:", "pkcs11:object=a?pin-source=file:"),
        ("pkcs11:object=a?module-path=&x", "pkcs11:object=a?module-path=&x"),
        ("pkcs11:object=a?module-path=%zz", "pkcs11:object=a?module-path=/my%20etc/%zz"),
        ("pkcs11:object=module-path=m", "pkcs11:object=module-path=m"),
        ("awskms:///alias/x?region=module-path=m", "awskms:///alias/x?region=module-path=m"),
        ("gcpkms://projects/p", "gcpkms://projects/p"),
        ("gcpkms://projects/p?credentials=file:c.json", "gcpkms://projects/p?credentials=file:/my%20etc/c.json"),
        ("gcpkms://p?credentials=file:/c.json&endpoint=x", "gcpkms://p?credentials=file:/c.json&endpoint=x"),
        ("gcpkms://p?credentials=c.json", "gcpkms://p?credentials=c.json"),
    ],
)
def test_paths_in_uris(uri: str, resolved: str) -> None:
    assert resolve_paths(uri, Path("/my etc")) == resolved


def test_paths_in_the_settings_of_a_store(tmp_path: Path) -> None:
    settings: dict[str, JsonValue] = {
        "credentials_file": "c.json",
        "attestation_roots": "/roots.pem",
        "endpoint": "x:1",
    }
    assert resolve_settings("gcpkms", settings, tmp_path) == {
        "credentials_file": f"{tmp_path}/c.json", "attestation_roots": "/roots.pem", "endpoint": "x:1",
    }  # fmt: skip
    assert resolve_settings("other", settings, tmp_path) == settings
    file = tmp_path / "server.toml"
    name = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
    key = f'[[keys]]\nname = "demo"\nuri = "gcpkms://{name}"\nschemes = ["rsassa-pss-sha256"]\n'
    file.write_text(f'{LISTENER}[stores.gcpkms]\ncredentials_file = "c.json"\n{key}')
    assert load_config(file).stores == {"gcpkms": {"credentials_file": f"{tmp_path}/c.json"}}


def test_everything_at_once(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        """
        [server]
        shutdown_grace_s = 3
        max_concurrent_streams = 10
        [log]
        format = "json"
        level = "debug"
        [identity]
        denied_certificates = ["sha256:AB:%s", "serial:0A:1b"]
        [stores.pkcs11]
        sessions = 4
        """
        % ("cd" * 31)
        + LISTENER
        + KEY
        + 'fingerprint = "%s"\nrequired = true\n' % ("0a" * 32)
        + 'custody = { protection = "hardware", origin = "generated-inside", export = "never-possible" }\n'
        + GRANT
        + 'schemes = ["capgo-v3"]\n'
    )
    config = load_config(file)
    assert config.server.shutdown_grace_s == 3.0
    assert config.stores == {"pkcs11": {"sessions": 4}}
    assert config.keys[0].schemes == (WrapScheme.CAPGO, SignatureScheme.CAPGO_V3)
    assert config.keys[0].custody.protection is Protection.HARDWARE
    assert config.identity.denied() == DeniedCertificates(frozenset({"ab" + "cd" * 31}), frozenset({0x0A1B}))
    assert config.grants[0].grant().schemes == {SignatureScheme.CAPGO_V3}


NONE = '[[listeners]]\naddress = "{}"\nauth = "none"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[keys]\n", "(at line 1, column 7)"),
        ("a = 1\na = 2\n", "(at line 2, column 6)"),
        ("", "listeners: is missing (and 1 more)"),
        (LISTENER, "keys: is missing"),
        ("keys = []\n" + LISTENER, "keys: must not be empty"),
        (LISTENER + KEY + "shemes = []\n", "keys[0].shemes: there is no such setting; did you mean schemes?"),
        ("[sever]\n" + LISTENER + KEY, "sever: there is no such setting; did you mean server?"),
        ("[server]\nshutdown_grace = 1\n" + LISTENER + KEY,
         "server.shutdown_grace: there is no such setting; did you mean shutdown_grace_s?"),
        ('[server]\nshutdown_grace_s = "10"\n' + LISTENER + KEY, "shutdown_grace_s: input should be a valid number"),
        ("[server]\nshutdown_grace_s = -1\n" + LISTENER + KEY, "shutdown_grace_s: input should be greater than 0"),
        ("[server]\nshutdown_grace_s = inf\n" + LISTENER + KEY, "server.shutdown_grace_s: input should be"),
        ("[server]\nmax_concurrent_streams = 1.5\n" + LISTENER + KEY,
         "server.max_concurrent_streams: input should be a valid integer"),
        ("server = 1\n" + LISTENER + KEY, "server: "),
        ("[log]\nformat = 1999-12-31\n" + LISTENER + KEY, "a date is no value of any setting"),
        ('[log]\nformat = "xml"\n' + LISTENER + KEY, "log.format: input should be 'console' or 'json'"),
        ('[identity]\ndenied_certificates = ["sha256:ab"]\n' + LISTENER + KEY,
         "identity.denied_certificates: must each be sha256: and 64 hex digits, or serial: and hex digits"),
        (LISTENER.replace("mtls", "tls") + KEY, "listeners[0].auth: input should be 'mtls', 'oidc' or 'none'"),
        (LISTENER.replace('certificate = "server.pem"\n', "") + KEY,
         'listeners[0]: a listener with auth = "mtls" needs certificate'),
        (LISTENER.replace('[{ file = "ca.pem", names = ["dns:*.build.example"] }]', "[]") + KEY, "needs client_cas"),
        (LISTENER.replace('["dns:*.build.example"]', "[]") + KEY, "client_cas[0].names: must not be empty"),
        (LISTENER.replace("dns:*.build.example", "*") + KEY,
         "listeners[0].client_cas[0].names[0]: a caller is written spiffe://"),
        (LISTENER.replace("127.0.0.1:0", "127.0.0.1") + KEY, "listeners[0].address: must be HOST:PORT"),
        (LISTENER.replace("127.0.0.1:0", "::1:80") + KEY, "listeners[0].address: must be HOST:PORT"),
        (LISTENER.replace("127.0.0.1:0", "host:70000") + KEY, "listeners[0].address: must be HOST:PORT"),
        (LISTENER.replace("127.0.0.1:0", "unix:") + KEY, "address: must be unix: and the path of a socket"),
        (NONE.format("0.0.0.0:0") + KEY, 'must be at an address of this machine alone'),
        (NONE.format("localhost:0") + KEY, 'must be at an address of this machine alone'),
        (LISTENER.replace("mtls", "none") + KEY, "has no TLS: take away certificate and certificate_key"),
        (LISTENER + KEY.replace("demo", "de mo"), "keys[0].name: must be letters, digits, dots, - and _"),
        (LISTENER + KEY.replace('"capgo"', '"capgo-v4"'), "keys[0].schemes[0]: must be a scheme: capgo, rsaes-"),
        (LISTENER + KEY.replace('"capgo"', '"capgo-v3"'), "keys[0].schemes: must not name one thing twice"),
        (LISTENER + KEY.replace('"capgo"', '"rsassa-pss-sha256"'),
         "keys[0].schemes: capgo-v3 and rsassa-pss-sha256 need a key each, since one key must not give"),
        (LISTENER + KEY.replace('"capgo"', '"rsaes-oaep-sha1"'), "schemes: capgo-v3 and rsaes-oaep-sha1 need a key"),
        (LISTENER + KEY.replace("pkcs11:", ""), "keys[0].uri: a key's URI begins with its key store; write pkcs11:"),
        ("[stores.pkcs1]\nsessions = 1\n" + LISTENER + KEY, "stores.pkcs1: no key is in this key store; those of the"),
        (LISTENER + KEY + 'fingerprint = "AB"\n', "keys[0].fingerprint: must be the 64 lower-case hex digits"),
        (LISTENER + KEY + 'custody = { export = "never" }\n',
         "keys[0].custody.export: must be one of: possible, unknown, possible-once, never-possible"),
        (LISTENER + KEY + KEY, "keys: two have the name 'demo'"),
        (LISTENER + KEY + GRANT + GRANT, "grants: two have the name 'farm'"),
        (LISTENER + KEY + GRANT.replace('"demo"', '"other"'), "grants[0].keys: there is no key named 'other'"),
        (LISTENER + KEY + GRANT.replace("sign-checksum", "sign"), "operations[0]: must be an operation: wrap-"),
        (LISTENER + KEY + GRANT.replace("sign-checksum", "get-key"), "grants[0].operations[0]: must be an operation"),
        (LISTENER + KEY + GRANT.replace("dns:a.", "dns:A."), "callers[0]: a DNS name is written in lower case"),
        (LISTENER + KEY + GRANT.replace('["dns:a.build.example"]', "[]"), "grants[0].callers: must not be empty"),
        (LISTENER + KEY + GRANT.replace('["dns:a.build.example"]', "[7]"), "grants[0].callers[0]: must be a string"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/server.toml: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_secret_in_a_bad_place_is_not_repeated(tmp_path: Path) -> None:
    text = LISTENER + KEY.replace('"capgo"', '"SECRET1"').replace("demo", "SECRET2 ") + 'pin = "SECRET3"\n'
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert "SECRET" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "binary.toml")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.1:0", "[::1]:5", "unix:/run/x"])
def test_addresses_of_this_machine(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "localhost:1", "10.0.0.1:1", "[::ffff:127.0.0.1]:1", "128.0.0.1:1", "127.1:1", "x"],
)
def test_other_addresses(address: str) -> None:
    assert not is_local(address)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(LISTENER + KEY)
    with pytest.raises(ConfigError, match="no key 'x'; it has demo"):
        load_config(file).key("x")
