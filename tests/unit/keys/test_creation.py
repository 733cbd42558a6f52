"""The making and importing of keys: which files a key is read from, and the wording of each refusal."""

from __future__ import annotations

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

from privyseal_backends.interface import Export, Origin, PublicKey, Purpose
from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config
from privyseal_service.keys.creation import (
    KeyFileError,
    TargetError,
    create,
    import_key,
    read_private_key,
    remaining_steps,
    report,
    target_by_name,
    target_by_uri,
)
from tests.fakes.software_store import SoftwareStore
from tests.support.pki import of_an_unknown_curve
from tests.support.serving import pem
from tests.support.token_keys import material


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


ENCRYPTED = (
    "{file} is encrypted, and this command reads no password: decrypt it (openssl rsa -in {file} -out …) to a file "
    "system in memory, import that file, and destroy it"
)
NOT_ONE = "{file} does not hold one private key as PEM: PKCS#1 (BEGIN RSA PRIVATE KEY) or PKCS#8 (BEGIN PRIVATE KEY)"
NOT_RSA = "{file} holds a key that is not RSA"
DAMAGED = "{file} is damaged: its private key cannot be read"


def bad_files(private_key: rsa.RSAPrivateKey) -> dict[str, tuple[bytes, str]]:
    good = pem(private_key)
    traditional = (Encoding.PEM, PrivateFormat.TraditionalOpenSSL)
    password = BestAvailableEncryption(b"SECRET")
    elliptic = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "encrypted PKCS#8": (private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password), ENCRYPTED),
        "encrypted PKCS#1": (private_key.private_bytes(*traditional, password), ENCRYPTED),
        "public": (private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1), NOT_ONE),
        "two": (good + good, NOT_ONE),
        "none": (b"nothing", NOT_ONE),
        "empty": (b"", NOT_ONE),
        "long": (good + b"\n" * 70_000, NOT_ONE),
        "DER": (private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), NOT_ONE),
        "OpenSSH": (private_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), NOT_ONE),
        "elliptic": (elliptic, NOT_RSA),
        "of an unknown curve": (of_an_unknown_curve(elliptic), NOT_RSA),
        "damaged": (good.replace(b"MII", b"AAA"), DAMAGED),
    }


def test_files_that_are_not_imported(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    file = tmp_path / "import.pem"
    for name, (content, sentence) in bad_files(rsa_key).items():
        file.write_bytes(content)
        with pytest.raises(KeyFileError) as caught:
            read_private_key(file)
        assert str(caught.value) == sentence.format(file=file), name
        assert not [secret for secret in material(rsa_key) if secret in str(caught.value)]
    for path, sentence in (
        (tmp_path / "none", "there is no file {file}"),
        (tmp_path, "{file} cannot be read: Is a directory"),
    ):
        with pytest.raises(KeyFileError) as caught:
            read_private_key(path)
        assert str(caught.value) == sentence.format(file=path)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
async def test_files_that_are_imported(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, form: PrivateFormat) -> None:
    file = tmp_path / "import.pem"
    file.write_bytes(b"Bag Attributes\n" + pem(rsa_key, form))
    private_key = read_private_key(file)
    store = SoftwareStore()
    target = target_by_uri("software:new", None)
    description = await import_key(target, private_key, store.backends)
    assert description.public_key.key.public_numbers() == rsa_key.public_key().public_numbers()
    assert (description.custody.origin, description.custody.export) == (Origin.IMPORTED, Export.POSSIBLE_ONCE)
    text = report("imported", target, description) + remaining_steps(file)
    assert description.public_key.fingerprint in text
    assert text.count(str(file)) == 2
    assert store.calls.closed == 1


@pytest.mark.parametrize(
    ("purpose", "bits", "sentence"),
    [
        (Purpose.TYPE1, 3072, "a key for Capgo must have 2048 bits, not 3072, since devices read exactly 256 bytes"),
        (None, 3072, "a key for Capgo must have 2048 bits, not 3072, since devices read exactly 256 bytes"),
        (Purpose.SIGNATURES, 1024, "a key must have 2048, 3072 or 4096 bits, not 1024"),
    ],
)
async def test_sizes_that_the_purpose_does_not_have(purpose: Purpose | None, bits: int, sentence: str) -> None:
    store = SoftwareStore()
    target = target_by_uri("software:new", purpose)
    for work in (
        import_key(target, rsa.generate_private_key(65537, bits), store.backends),
        create(target, bits, store.backends),
    ):
        with pytest.raises(TargetError) as caught:
            await work
        assert str(caught.value) == sentence
    assert store.keys == {}


PINNED = "the configuration pins a fingerprint for key 'demo' that is not the file's, {found}"
CUSTODY = (
    "the configuration demands custody of key 'demo' that an imported key cannot have; write "
    'custody = { origin = "imported", export = "possible-once" }'
)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"fingerprint": "0" * 64}, PINNED),
        ({"custody": {"origin": "generated-inside"}}, CUSTODY),
        ({"custody": {"export": "never-possible"}}, CUSTODY),
    ],
)
async def test_keys_that_the_configuration_forbids(
    rsa_key: rsa.RSAPrivateKey, more: dict[str, object], sentence: str
) -> None:
    store = SoftwareStore()
    target = target_by_name(configuration(**more), "demo", None)
    with pytest.raises(TargetError) as caught:
        await import_key(target, rsa_key, store.backends)
    assert str(caught.value) == sentence.replace("{found}", PublicKey(rsa_key.public_key()).fingerprint)
    if "fingerprint" in more:
        with pytest.raises(TargetError) as caught:
            await create(target, 2048, store.backends)
        assert str(caught.value) == (
            "the configuration pins the fingerprint of key 'demo'; remove it, since a new key has another"
        )
    assert store.keys == {}


def test_the_purpose_follows_from_the_schemes() -> None:
    config = configuration(schemes=["rsaes-oaep-sha1"])
    assert target_by_name(config, "demo", None).purpose is Purpose.DECRYPTION
    with pytest.raises(TargetError) as caught:
        target_by_name(config, "demo", Purpose.TYPE1)
    assert str(caught.value) == (
        f"key 'demo' is enrolled for rsaes-oaep-sha1, which needs a key for {Purpose.DECRYPTION.value}"
    )


def configuration(**more: object) -> Config:
    key = {"name": "demo", "uri": "software:demo", "schemes": ["capgo"], **more}
    data = {"listeners": [{"address": "127.0.0.1:0", "auth": "none"}], "keys": [key]}
    return parse_config(data, "server.toml", Path("/nonexistent"))


def test_relative_paths_of_a_uri_are_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = target_by_uri("pkcs11:object=a?module-path=m.so", None)
    assert target.uri == f"pkcs11:object=a?module-path={tmp_path}/m.so"
