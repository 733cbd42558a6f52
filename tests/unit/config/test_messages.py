"""The wording of each error of the configuration, and that no value stands in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import JsonValue

from privyseal.transparency.checkpoint import Signer
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import load_config, parse_config, state_folder_of
from tests.support.configuration import (
    GRANT,
    INSECURE_LISTENER,
    ISSUER,
    KEY,
    LISTENER,
    OIDC_GRANT,
    OIDC_LISTENER,
    refused,
)

WORDING = [
    ("", "listeners: is missing (and 1 more)"),
    (LISTENER, "keys: is missing"),
    ("keys = []\n" + LISTENER, "keys: must not be empty"),
    (LISTENER + KEY + "shemes = []\n", "keys[0].shemes: there is no such setting; did you mean schemes?"),
    ("[sever]\n" + LISTENER + KEY, "sever: there is no such setting; did you mean server?"),
    (
        "[server]\nshutdown_grace = 1\n" + LISTENER + KEY,
        "server.shutdown_grace: there is no such setting; did you mean shutdown_grace_s?",
    ),
    ('[server]\nshutdown_grace_s = "10"\n' + LISTENER + KEY, "server.shutdown_grace_s: must be a number"),
    ("[server]\nshutdown_grace_s = -1\n" + LISTENER + KEY, "server.shutdown_grace_s: must be greater than 0"),
    ("[server]\nshutdown_grace_s = inf\n" + LISTENER + KEY, "server.shutdown_grace_s: must be a finite number"),
    (
        "[server]\nmax_concurrent_streams = 1.5\n" + LISTENER + KEY,
        "server.max_concurrent_streams: must be a whole number",
    ),
    ("server = 1\n" + LISTENER + KEY, "server: must be a table"),
    ("[log]\nformat = 1999-12-31\n" + LISTENER + KEY, "no setting is a date; write it as a string or a number"),
    ('[log]\nformat = "xml"\n' + LISTENER + KEY, "log.format: must be 'console' or 'json'"),
    (
        '[identity]\ndenied_certificates = ["sha256:ab"]\n' + LISTENER + KEY,
        "identity.denied_certificates: each must be sha256: and 64 hex digits, or serial: and hex digits",
    ),
    (LISTENER.replace("mtls", "tls") + KEY, "listeners[0].auth: must be 'mtls', 'oidc' or 'none'"),
    (
        LISTENER.replace('certificate = "server.pem"\n', "") + KEY,
        'listeners[0]: a listener with auth = "mtls" needs certificate',
    ),
    (
        LISTENER.replace('[{ file = "ca.pem", names = ["dns:*.build.example"] }]', "[]") + KEY,
        'listeners[0]: a listener with auth = "mtls" needs client_cas',
    ),
    (LISTENER.replace('["dns:*.build.example"]', "[]") + KEY, "listeners[0].client_cas[0].names: must not be empty"),
    (LISTENER.replace("127.0.0.1:0", "unix:") + KEY, "listeners[0].address: must be unix: and the path of a socket"),
    (
        INSECURE_LISTENER.format("0.0.0.0:0") + KEY,
        (
            'listeners[0]: a listener with auth = "none" must be at a local address (127.0.0.0/8, [::1] or '
            'unix:PATH); anywhere else use auth = "mtls"'
        ),
    ),
    (
        INSECURE_LISTENER.format("localhost:0") + KEY,
        (
            'listeners[0]: a listener with auth = "none" must be at a local address (127.0.0.0/8, [::1] or '
            'unix:PATH); anywhere else use auth = "mtls"'
        ),
    ),
    (
        LISTENER.replace("mtls", "none") + KEY,
        (
            'listeners[0]: a listener with auth = "none" has no TLS: remove certificate and certificate_key '
            "and client_cas"
        ),
    ),
    (
        LISTENER + KEY.replace("demo", "de mo"),
        ("keys[0].name: must be letters, digits, dots, - and _, beginning with a letter or digit, at most 128"),
    ),
    (
        LISTENER + KEY.replace('"capgo"', '"capgo-v4"'),
        (
            "keys[0].schemes[0]: must be a scheme: capgo, rsaes-oaep-sha256, rsaes-oaep-sha1, capgo-v2, "
            "capgo-v3, rsassa-pkcs1-v1_5-sha256, rsassa-pss-sha256"
        ),
    ),
    (LISTENER + KEY.replace('"capgo"', '"capgo-v3"'), "keys[0].schemes: must not have a value twice"),
    (
        LISTENER + KEY.replace('"capgo"', '"rsassa-pss-sha256"'),
        (
            "keys[0].schemes: capgo-v3 and rsassa-pss-sha256 need separate keys, since a block signed or "
            "decrypted by one key must have one meaning; make a second key"
        ),
    ),
    (
        LISTENER + KEY.replace('"capgo"', '"rsaes-oaep-sha1"'),
        (
            "keys[0].schemes: capgo-v3 and rsaes-oaep-sha1 need separate keys, since a block signed or "
            "decrypted by one key must have one meaning; make a second key"
        ),
    ),
    (
        "[stores.pkcs1]\nsessions = 1\n" + LISTENER + KEY,
        "stores.pkcs1: no key is in this key store; the keys are in pkcs11",
    ),
    (
        LISTENER + KEY + 'fingerprint = "AB"\n',
        "keys[0].fingerprint: must be the 64 lower-case hex digits that `privyseal-server check` prints",
    ),
    (
        LISTENER + KEY + 'custody = { export = "never" }\n',
        "keys[0].custody.export: must be one of: possible, unknown, possible-once, never-possible",
    ),
    (LISTENER + KEY + KEY, "keys[1].name: is the name of keys[0] too"),
    (
        LISTENER.replace("dns:*.build.example", "oidc:https://ci.example:x") + KEY,
        (
            "listeners[0].client_cas[0].names: must not be oidc: names, since a CA cannot vouch for the "
            "subject of a token"
        ),
    ),
    (LISTENER + KEY + 'state = "cold"\n', "keys[0].state: must be 'serving' or 'frozen'"),
    (
        '[metrics]\naddress = "0.0.0.0:9464"\n' + LISTENER + KEY,
        (
            "metrics: address must be local (127.0.0.0/8 or [::1]), since the page has no authentication; to "
            "use another, set remote = true and keep others away by the network"
        ),
    ),
    (
        '[metrics]\naddress = "unix:/run/metrics"\n' + LISTENER + KEY,
        "metrics.address: must be HOST:PORT or [IPV6]:PORT, since Prometheus reads metrics over TCP",
    ),
    ("[server]\nwatch = 1\n" + LISTENER + KEY, "server.watch: must be true or false"),
    ("[server]\nworkers = 257\n" + LISTENER + KEY, "server.workers: must be less than or equal to 256"),
    ("[server]\nstate_folder = 1\n" + LISTENER + KEY, "server.state_folder: must be a string"),
    (LISTENER + KEY.replace('["capgo", "capgo-v3"]', '"capgo"'), "keys[0].schemes: must be a list"),
    (LISTENER + KEY + "custody = 1\n", "keys[0].custody: must be a table"),
    ("stores = 1\n" + LISTENER + KEY, "stores: must be a table"),
    ("[stores]\npkcs11 = 1\n" + LISTENER + KEY, "stores.pkcs11: must be a table"),
    (LISTENER + '[[keys]]\nname = "demo"\nuri = ""\nschemes = ["capgo"]\n', "keys[0].uri: must not be empty"),
]


@pytest.mark.parametrize(("text", "sentence"), WORDING)
def test_the_wording(tmp_path: Path, text: str, sentence: str) -> None:
    assert refused(tmp_path, text) == sentence


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (LISTENER.replace("dns:*.build.example", "*") + KEY, "listeners[0].client_cas[0].names[0]"),
        (LISTENER.replace("127.0.0.1:0", "127.0.0.1") + KEY, "listeners[0].address"),
        (LISTENER.replace("127.0.0.1:0", "::1:80") + KEY, "listeners[0].address"),
        (LISTENER.replace("127.0.0.1:0", "host:70000") + KEY, "listeners[0].address"),
        (LISTENER + KEY.replace("pkcs11:", ""), "keys[0].uri"),
        (LISTENER + KEY + GRANT.replace("dns:a.", "dns:A."), "grants[0].callers[0]"),
        (OIDC_LISTENER + ISSUER.replace("https:", "http:") + KEY, "issuers[0].issuer"),
        (OIDC_LISTENER + ISSUER + 'required_claims = { ref = "a*" }\n' + KEY, "issuers[0].required_claims"),
        (OIDC_LISTENER + ISSUER + KEY + OIDC_GRANT + 'claims = { ref = "a*" }\n', "grants[0].claims"),
        (LISTENER + KEY + GRANT + 'window = { hours = "8-18" }\n', "grants[0].window"),
    ],
)
def test_the_place_of_what_other_modules_find(tmp_path: Path, text: str, place: str) -> None:
    assert refused(tmp_path, text).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("text", "place"), [("[[keys]\n", "(at line 1, column 7)"), ("a = 1\na = 2\n", "(at line 2, column 6)")]
)
def test_text_that_is_not_toml_is_named_by_its_line(tmp_path: Path, text: str, place: str) -> None:
    sentence = refused(tmp_path, text)
    assert sentence.startswith("is not TOML: ")
    assert sentence.endswith(place)


AUDIT: dict[str, JsonValue] = {"folder": "audit", "log": "audit.example.com/replica-1", "key": "audit.key"}
VKEY = str(Signer.generate("other.example").verifier)
NO_REPLICA = "audit: replica must be 1 to 64 letters, digits, dots, hyphens and underscores"
NO_LOG = "audit.log: must be a URL without scheme, as audit.example.com/replica-1; spaces and + are not allowed"
NO_VKEY = "must be a public key: the line NAME+ID+BASE64 that `audit keygen` prints"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"enabled": False}, "audit: enabled = false keeps no audit trail: remove folder and key and log"),
        ({"folder": None}, "audit: an audit trail needs folder"),
        ({"folder": None, "log": None, "key": None}, "audit: an audit trail needs folder and log and key"),
        ({"log": ""}, NO_LOG),
        ({"log": "a b"}, NO_LOG),
        ({"log": "https://example.com/é"}, f"{NO_REPLICA}; set it, since the last part of log is not"),
        ({"replica": "a/b"}, NO_REPLICA),
        ({"former_keys": ["x"]}, f"audit.former_keys: {NO_VKEY}"),
        ({"former_keys": [VKEY]}, "audit: former_keys must be keys of the log that `log` names"),
        (
            {"sinks": [{"kind": "witness", "url": "https://w", "key": VKEY}]},
            "audit.sinks[0].key: must be a witness's Ed25519 cosignature key (a vkey of type 4)",
        ),
        ({"sinks": [{"kind": "pigeon"}]}, "audit.sinks[0]: kind must be one of 'file', 'stdout', 'https', 'witness'"),
        ({"sinks": [{"path": "x"}]}, "audit.sinks[0]: kind is missing"),
        ({"sinks": [{"kind": "https"}]}, "audit.sinks[0].url: is missing"),
        (
            {"sinks": [{"kind": "file", "path": "x", "paht": "y"}]},
            "audit.sinks[0].paht: there is no such setting; did you mean path?",
        ),
        ({"foldr": "x"}, "audit.foldr: there is no such setting; did you mean folder?"),
        ({"key": 7}, "audit.key: must be a string"),
        ({"segment_mib": 0}, "audit.segment_mib: must be greater than or equal to 1"),
    ],
)
def test_the_wording_for_the_audit_trail(change: dict[str, JsonValue], sentence: str) -> None:
    table = {name: value for name, value in {**AUDIT, **change}.items() if value is not None}
    data = {
        "audit": table,
        "listeners": [{"address": "127.0.0.1:0", "auth": "none"}],
        "keys": [{"name": "app", "uri": "software:app", "schemes": ["capgo"]}],
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(data, "server.toml", Path("/etc/privyseal"))
    assert str(caught.value) == f"server.toml: {sentence}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing, binary = tmp_path / "none.toml", tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for file, sentence in (
        (missing, "there is no such file; name the configuration with --config"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "is not UTF-8, so it is not TOML"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        assert str(caught.value) == f"{file}: {sentence}"


def test_a_configuration_without_a_state_folder(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("")
    with pytest.raises(ConfigError) as caught:
        state_folder_of(tmp_path / "server.toml")
    assert str(caught.value) == (
        f"{tmp_path}/server.toml: server.state_folder: is not set, and health is reported only in that folder; set it"
    )


@pytest.mark.parametrize(
    "text",
    [
        LISTENER + KEY.replace('"capgo"', '"SECRET"'),
        LISTENER + KEY.replace("demo", "SECRET "),
        LISTENER + KEY + 'pin = "SECRET"\n',
        LISTENER + KEY + 'state = "SECRET"\n',
        LISTENER + KEY.replace("pkcs11:", "SECRET"),
        LISTENER + KEY + GRANT.replace('"demo"', '"SECRET"'),
        LISTENER + KEY + GRANT.replace("dns:a.build.example", "SECRET"),
        LISTENER + KEY + GRANT + 'rate = "SECRET"\n',
        LISTENER + KEY + GRANT.replace("farm", "SECRET") * 2,
        '[limits]\nstorage = "redis://:SECRET@h:1/0"\n' + LISTENER + KEY,
        '[audit]\nfolder = "a"\nkey = "k"\nlog = "PRIVATE+SECRET"\n' + LISTENER + KEY,
        '[audit]\nfolder = "a"\nkey = "k"\nlog = "SECRET SECRET"\n' + LISTENER + KEY,
        '[audit]\nfolder = "a"\nkey = "k"\nlog = "x/y"\nsinks = [{ kind = "SECRET" }]\n' + LISTENER + KEY,
        OIDC_LISTENER + ISSUER.replace("jwks.json", "SECRET") + 'jwks_url = "https://u:SECRET@h:99999/"\n' + KEY,
        OIDC_LISTENER + ISSUER.replace('jwks_file = "jwks.json"', 'jwks_url = "https://SECRET@h:99999/"') + KEY,
    ],
)
def test_no_value_is_repeated(tmp_path: Path, text: str) -> None:
    assert "SECRET" not in refused(tmp_path, text)


def test_problems_are_counted_once(tmp_path: Path) -> None:
    assert refused(tmp_path, LISTENER + KEY + 'state = 1\nrequired = "x"\n').endswith(" (and 1 more)")
    assert not refused(tmp_path, LISTENER + KEY.replace('["capgo", "capgo-v3"]', '["x"]')).endswith(" more)")
