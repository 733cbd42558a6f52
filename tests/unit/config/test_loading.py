"""The configuration as a whole: defaults, relative paths, and all settings together."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import JsonValue

from privyseal_backends.interface import Export, Origin, Protection
from privyseal_backends.registry import store_uris
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import load_config
from privyseal_service.domain.caller import DeniedCertificates
from privyseal_service.domain.operations import SignatureScheme, WrapScheme
from tests.support.configuration import GRANT, KEY, LISTENER, load


def test_the_smallest_and_its_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, LISTENER + KEY)
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
    assert store_uris(uri).resolve_paths(uri, Path("/my etc")) == resolved


def test_paths_in_the_settings_of_a_store(tmp_path: Path) -> None:
    settings: dict[str, JsonValue] = {
        "credentials_file": "c.json",
        "attestation_roots": "/roots.pem",
        "endpoint": "x:1",
    }
    assert store_uris("gcpkms").resolve_settings(settings, tmp_path) == {
        "credentials_file": f"{tmp_path}/c.json", "attestation_roots": "/roots.pem", "endpoint": "x:1",
    }  # fmt: skip
    assert store_uris("other").resolve_settings(settings, tmp_path) == settings
    name = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
    key = f'[[keys]]\nname = "demo"\nuri = "gcpkms://{name}"\nschemes = ["rsassa-pss-sha256"]\n'
    config = load(tmp_path, f'{LISTENER}[stores.gcpkms]\ncredentials_file = "c.json"\n{key}')
    assert config.stores == {"gcpkms": {"credentials_file": f"{tmp_path}/c.json"}}


def test_everything_together(tmp_path: Path) -> None:
    config = load(
        tmp_path,
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
        + 'schemes = ["capgo-v3"]\n',
    )
    assert config.server.shutdown_grace_s == 3.0
    assert config.stores == {"pkcs11": {"sessions": 4}}
    assert config.keys[0].schemes == (WrapScheme.CAPGO, SignatureScheme.CAPGO_V3)
    assert config.keys[0].custody.protection is Protection.HARDWARE
    assert config.identity.denied() == DeniedCertificates(frozenset({"ab" + "cd" * 31}), frozenset({0x0A1B}))
    assert config.grants[0].grant().schemes == {SignatureScheme.CAPGO_V3}


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, LISTENER + KEY).key("x")
    assert "demo" in str(caught.value)
