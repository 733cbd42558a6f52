"""Texts of service configurations, to be put together by tests, and the loading of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import load_config
from privyseal_service.config.root import Config

SERVER = '[server]\nstate_folder = "state"\n'
LISTENER = """
[[listeners]]
address = "127.0.0.1:0"
auth = "mtls"
certificate = "server.pem"
certificate_key = "keys/server.pem"
client_cas = [{ file = "ca.pem", names = ["dns:*.build.example"] }]
"""
OIDC_LISTENER = """
[[listeners]]
address = "127.0.0.1:0"
auth = "oidc"
certificate = "server.pem"
certificate_key = "keys/server.pem"
"""
INSECURE_LISTENER = '[[listeners]]\naddress = "{}"\nauth = "none"\n'
ISSUER = """
[[issuers]]
issuer = "https://ci.example"
audiences = ["privyseal"]
jwks_file = "jwks.json"
claims = ["repository", "ref"]
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
OIDC_GRANT = GRANT.replace("dns:a.build.example", "oidc:https://ci.example:repo:octo-org/app:*:refs/heads/**")


def load(folder: Path, text: str) -> Config:
    """Write the text to server.toml in the folder, and load it."""
    file = folder / "server.toml"
    file.write_text(text)
    return load_config(file)


def refused(folder: Path, text: str) -> str:
    """The sentence with which the text is refused, without the name of its file, server.toml."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    name, colon, sentence = str(caught.value).partition("server.toml: ")
    assert (name, colon) == (f"{folder}/", "server.toml: ")
    assert "\n" not in sentence
    return sentence
