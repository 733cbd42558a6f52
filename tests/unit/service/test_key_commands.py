"""`key import`: which files a key is read from, and that nothing of one is ever repeated."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from privyseal_backends.interface import Export, Origin, Purpose
from privyseal_service.keys.creation import (
    KeyFileError,
    TargetError,
    create,
    import_key,
    read_private_key,
    remaining_steps,
    report,
    target_by_uri,
)
from tests.fakes.software_store import SoftwareStore
from tests.support.pki import of_an_unknown_curve


def pem(private_key: rsa.RSAPrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return private_key.private_bytes(Encoding.PEM, form, NoEncryption())


def bad_files(private_key: rsa.RSAPrivateKey) -> dict[str, tuple[bytes, str]]:
    good = pem(private_key)
    traditional = (Encoding.PEM, PrivateFormat.TraditionalOpenSSL)
    password = BestAvailableEncryption(b"SECRET")
    elliptic = ec.generate_private_key(ec.SECP256R1())
    return {
        "encrypted PKCS#8": (private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password), "is encrypted"),
        "encrypted PKCS#1": (private_key.private_bytes(*traditional, password), "is encrypted"),
        "public": (
            private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
            "does not hold one private",
        ),
        "two": (good + good, "does not hold one private key"),
        "none": (b"nothing", "does not hold one private key"),
        "empty": (b"", "does not hold one private key"),
        "long": (good + b"\n" * 70_000, "does not hold one private key"),
        "DER": (private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "does not hold one"),
        "elliptic": (elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "is not RSA"),
        "of an unknown curve": (
            of_an_unknown_curve(elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
            "is not RSA",
        ),
        "damaged": (good.replace(b"MII", b"AAA"), "is damaged"),
        "OpenSSH": (
            private_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "does not hold one private key",
        ),
    }


def test_files_that_are_not_imported(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    file = tmp_path / "import.pem"
    numbers = rsa_key.private_numbers()
    material = [*pem(rsa_key).decode().splitlines()[1:-1], *(f"{n:x}" for n in (numbers.d, numbers.p, numbers.q))]
    for name, (content, says) in bad_files(rsa_key).items():
        file.write_bytes(content)
        with pytest.raises(KeyFileError) as caught:
            read_private_key(file)
        assert says in str(caught.value), name
        assert not [secret for secret in material if secret in str(caught.value)]
    with pytest.raises(KeyFileError, match="there is no file"):
        read_private_key(tmp_path / "none")
    with pytest.raises(KeyFileError, match="cannot be read: Is a directory"):
        read_private_key(tmp_path)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_files_that_are_imported(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, form: PrivateFormat) -> None:
    file = tmp_path / "import.pem"
    file.write_bytes(b"Bag Attributes\n" + pem(rsa_key, form))
    private_key = read_private_key(file)
    store = SoftwareStore()
    target = target_by_uri("software:new", None)
    description = asyncio.run(import_key(target, private_key, store.backends))
    assert description.public_key.key.public_numbers() == rsa_key.public_key().public_numbers()
    assert (description.custody.origin, description.custody.export) == (Origin.IMPORTED, Export.POSSIBLE_ONCE)
    said = report("imported", target, description) + remaining_steps(file)
    assert description.public_key.fingerprint in said
    assert f"Destroy {file}" in said
    assert store.calls.closed == 1


def test_sizes_that_the_purpose_does_not_have() -> None:
    store = SoftwareStore()
    big = rsa.generate_private_key(65537, 3072)
    with pytest.raises(TargetError, match="2048 bits"):
        asyncio.run(import_key(target_by_uri("software:new", Purpose.TYPE1), big, store.backends))
    with pytest.raises(TargetError, match="2048 bits"):
        asyncio.run(create(target_by_uri("software:new", None), 3072, store.backends))
    small = rsa.generate_private_key(65537, 1024)
    with pytest.raises(TargetError, match="not 1024"):
        asyncio.run(import_key(target_by_uri("software:new", Purpose.SIGNATURES), small, store.backends))
    assert store.keys == {}


def test_relative_paths_of_a_uri_are_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = target_by_uri("pkcs11:object=a?module-path=m.so", None)
    assert target.uri == f"pkcs11:object=a?module-path={tmp_path}/m.so"
