"""A listener's files: each way in which one cannot serve is a sentence that names the file and the remedy."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from privyseal_service.api.tls import TlsError, load_tls
from privyseal_service.config.listeners import ClientCAConfig, ListenerConfig
from privyseal_service.domain.names import CallerPattern
from tests.support.pki import CA, DAY, of_an_unknown_curve

NOW = datetime.datetime.now(datetime.UTC)


def listener(folder: Path) -> ListenerConfig:
    ca = ClientCAConfig.model_construct(file=folder / "ca.pem", names=(CallerPattern.parse("dns:*.build.example"),))
    return ListenerConfig.model_construct(
        address="127.0.0.1:0",
        auth="mtls",
        certificate=folder / "server.pem",
        certificate_key=folder / "server-key.pem",
        client_cas=(ca,),
    )


def test_what_serves(ca: CA, tmp_path: Path) -> None:
    issued = ca.server()
    issued.write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(ca.pem + CA("Other").pem)
    tls = load_tls(listener(tmp_path))
    assert (tls.certificate_chain, tls.private_key) == (issued.chain_pem, issued.key_pem)
    assert [authority.names[0].text for authority in tls.authorities] == ["dns:*.build.example"] * 2
    assert tls.roots.count(b"BEGIN CERTIFICATE") == 2
    assert b"PRIVATE" not in repr(tls).encode()


def encrypted(ca: CA, folder: Path) -> None:
    key = ca.server().key
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (folder / "server-key.pem").write_bytes(pem)


SPOILS: dict[str, tuple[Callable[[CA, Path], object], str, str]] = {
    "no certificate": (lambda _, f: (f / "server.pem").unlink(), "certificate", "there is no file"),
    "a folder": (
        lambda _, f: ((f / "ca.pem").unlink(), (f / "ca.pem").mkdir()),
        "CA",
        "cannot be read: Is a directory",
    ),
    "not PEM": (lambda _, f: (f / "server.pem").write_bytes(b"\x30\x82"), "certificate", "holds no PEM certificate"),
    "expired": (
        lambda ca, f: ca.server(not_before=NOW - 2 * DAY, not_after=NOW - DAY).write(f, "server"),
        "certificate",
        "expired on",
    ),
    "not yet": (
        lambda ca, f: ca.server(not_before=NOW + DAY, not_after=NOW + 2 * DAY).write(f, "server"),
        "certificate",
        "is not valid before",
    ),
    "a client's": (lambda ca, f: ca.issue(dns=["localhost"]).write(f, "server"), "certificate", "is not for servers"),
    "no names": (
        lambda ca, f: ca.issue(common_name="x", usages=None).write(f, "server"),
        "certificate",
        "has no subject alternative name",
    ),
    "no key": (lambda _, f: (f / "server-key.pem").unlink(), "key", "there is no file"),
    "another key": (
        lambda ca, f: (f / "server-key.pem").write_bytes(ca.server().key_pem),
        "key",
        "is not the key of",
    ),
    "not a key": (lambda _, f: (f / "server-key.pem").write_bytes(b"SECRET"), "key", "holds no PEM private key"),
    "an encrypted key": (encrypted, "key", "is encrypted"),
    "a key of an unknown kind": (
        lambda ca, f: (f / "server-key.pem").write_bytes(of_an_unknown_curve(ca.server().key_pem)),
        "key",
        "is of a kind that the service does not support",
    ),
    "a certificate of an unknown kind": (
        lambda ca, f: (f / "server.pem").write_bytes(of_an_unknown_curve(ca.server().pem)),
        "certificate",
        "cannot be read",
    ),
    "a CA of an unknown kind": (
        lambda ca, f: (f / "ca.pem").write_bytes(of_an_unknown_curve(ca.pem)),
        "CA",
        "cannot be read",
    ),
    "no CA file": (lambda _, f: (f / "ca.pem").unlink(), "CA", "there is no file"),
    "no CA": (
        lambda ca, f: (f / "ca.pem").write_bytes(ca.issue(dns=["a.example"]).pem),
        "CA",
        "not fit for a client CA",
    ),
    "an expired CA": (
        lambda _, f: CA(not_before=NOW - 2 * DAY, not_after=NOW - DAY).write(f),
        "CA",
        "expired on",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_does_not(ca: CA, tmp_path: Path, spoil: str) -> None:
    ca.server().write(tmp_path, "server")
    ca.write(tmp_path)
    change, part, says = SPOILS[spoil]
    change(ca, tmp_path)
    with pytest.raises(TlsError) as caught:
        load_tls(listener(tmp_path))
    assert caught.value.part == part
    assert says in caught.value.message
    assert caught.value.remedy
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
