"""Every RSA input and output that the published Capgo CLI made, through the real service and a real token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from privyseal import SignatureScheme, WrapScheme
from privyseal.capgo import parse_iv_session_key
from privyseal.sealing import BundleSecrets, seal_bundle
from tests.support.programs import VECTORS, RealService

FORMATS = {"capgo-v2": SignatureScheme.CAPGO_V2, "capgo-v3": SignatureScheme.CAPGO_V3}


def vector(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / name / "vector.json").read_text())


@pytest.mark.parametrize("name", FORMATS)
def test_the_wrapped_key_is_the_cli_s(service: RealService, name: str) -> None:
    known = vector(name)
    with service.client() as client:
        wrapped = client.wrap_session_key(bytes.fromhex(known["session_key_hex"]), scheme=WrapScheme.CAPGO, key=name)
    assert wrapped.wrapped_key.hex() == known["rsa_output_session_key_hex"]
    assert wrapped.key_version == name.encode().hex()


@pytest.mark.parametrize("name", FORMATS)
def test_the_signature_is_the_cli_s(service: RealService, name: str) -> None:
    known = vector(name)
    checksum = bytes.fromhex(known["plain_sha256_hex"])
    with service.client() as client:
        alone = client.sign_checksum(checksum, scheme=FORMATS[name], key=name)
        (in_batch,) = client.batch_sign_checksums([checksum], scheme=FORMATS[name], key=name)
    assert alone.signature.hex() == known["rsa_output_checksum_hex"]
    assert in_batch.signature.hex() == known["rsa_output_checksum_hex"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_service_shows_the_key_as_capgo_wants_it(service: RealService, name: str) -> None:
    shown = service.privyseal("key", "show", name, "--format", "capgo")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == (VECTORS / name / "public.pem").read_text()
    with service.client() as client:
        assert client.get_key(name).public_key.capgo_key_id == vector(name)["key_id"]


@pytest.mark.parametrize("name", FORMATS)
def test_sealing_with_the_same_secrets_gives_the_cli_s_bytes(service: RealService, name: str, tmp_path: Any) -> None:
    known = vector(name)
    secrets = BundleSecrets(bytes.fromhex(known["session_key_hex"]), bytes.fromhex(known["iv_hex"]))
    with service.client() as client:
        sealed = seal_bundle(
            lambda: client,
            VECTORS / name / "bundle.zip",
            scheme=FORMATS[name],
            key=name,
            output=tmp_path / "sealed",
            bundle_secrets=secrets,
        )
    assert sealed.iv_session_key == known["ivSessionKey"]
    assert sealed.checksum == known["checksum_field"]
    assert sealed.path.read_bytes() == (VECTORS / name / "bundle.zip_encrypted.zip").read_bytes()
    assert parse_iv_session_key(sealed.iv_session_key).iv.hex() == known["iv_hex"]
