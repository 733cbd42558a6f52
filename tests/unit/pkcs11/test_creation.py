"""Keys made in a token or moved into one: their attributes, and that nothing is replaced or left half-made."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privyseal_backends.interface import (
    BackendError,
    CallerError,
    Decrypter,
    Export,
    IntegrityError,
    Mechanism,
    OperatorError,
    Origin,
    Protection,
    Purpose,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.pkcs11.store import Pkcs11Store
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken, make_token
from tests.unit.pkcs11.helpers import VECTORS, in_time, opened, values


def pkcs1_der(name: str = "capgo-v3") -> bytes:
    key = load_pem_private_key((VECTORS / name / "private.pem").read_bytes(), None)
    return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftHsmToken]:
    """Empty, and a test's own."""
    made = make_token(tmp_path, "creation")
    with made.in_this_process():
        yield made


async def names(store: Pkcs11Store, token: SoftHsmToken, shim: FaultShim, *labels: str) -> list[bool]:
    """Which of the labels can be opened."""
    opened_ = await asyncio.gather(
        *(store.open_key(token.uri(label, module_path=shim.path)) for label in labels), return_exceptions=True
    )
    return [not isinstance(each, BaseException) for each in opened_]


def objects(token: SoftHsmToken) -> int:
    """How many objects are in the token, private ones too: each is a file."""
    return len([each for each in token.tokens_folder.glob("*/*.object") if each.name != "token.object"])


def test_a_new_key_is_all_that_custody_asks_for(token: SoftHsmToken) -> None:
    async def create() -> None:
        async with opened() as store:
            key = await store.create_key(token.uri("new"))
            again = await store.open_key(token.uri("new"), key.description.public_key.fingerprint)
            assert again.description == key.description or again.description.key_version == key.description.key_version
            described = key.description
            assert described.public_key.modulus_bits == 2048
            assert described.public_key.key.public_numbers().e == 65537
            assert len(described.key_version) == 40
            custody = described.custody
            assert (custody.protection, custody.origin, custody.export) == (
                Protection.SOFTWARE,
                Origin.GENERATED_INSIDE,
                Export.NEVER_POSSIBLE,
            )
            said = {each.name: each.value for each in custody.evidence}
            assert [name for name in said if said[name] == "true"] == [
                "CKA_SENSITIVE",
                "CKA_ALWAYS_SENSITIVE",
                "CKA_NEVER_EXTRACTABLE",
                "CKA_LOCAL",
                "CKA_PRIVATE",
                "CKA_MODIFIABLE",
                "CKA_SIGN",
            ]
            assert not isinstance(key, Decrypter)
            assert len(values(await key.sign([SigningInput(Mechanism.TYPE1, bytes(16))], in_time()))) == 1

    asyncio.run(create())
    assert objects(token) == 2


def test_a_key_for_decryption_decrypts_and_does_not_sign(token: SoftHsmToken) -> None:
    async def create() -> None:
        async with opened() as store:
            key = await store.create_key(token.uri("new"), Purpose.DECRYPTION, 3072)
            assert isinstance(key, Decrypter)
            assert Mechanism.OAEP_SHA1 in key.description.mechanisms
            assert not key.description.mechanisms & {Mechanism.TYPE1, Mechanism.PSS_SHA256}
            said = {each.name: each.value for each in key.description.custody.evidence}
            assert (said["CKA_SIGN"], said["CKA_SIGN_RECOVER"], said["CKA_UNWRAP"]) == ("false", "false", "false")

    asyncio.run(create())


def test_a_key_for_rsassa_may_be_larger(token: SoftHsmToken) -> None:
    async def create() -> None:
        async with opened() as store:
            key = await store.create_key(token.uri("new"), Purpose.SIGNATURES, 3072)
            assert key.description.mechanisms == {Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256}

    asyncio.run(create())


@pytest.mark.parametrize(
    ("purpose", "bits"),
    [(Purpose.TYPE1, 3072), (Purpose.TYPE1, 1024), (Purpose.SIGNATURES, 1024), (Purpose.DECRYPTION, 2049)],
)
def test_a_size_that_the_purpose_does_not_allow(token: SoftHsmToken, purpose: Purpose, bits: int) -> None:
    async def create() -> None:
        async with opened() as store:
            await store.create_key(token.uri("new"), purpose, bits)

    with pytest.raises(CallerError, match=str(bits)):
        asyncio.run(create())
    assert objects(token) == 0


def test_an_imported_key_says_so_and_makes_the_same_bytes(token: SoftHsmToken) -> None:
    vector = json.loads((VECTORS / "capgo-v3" / "vector.json").read_text())

    async def bring() -> None:
        async with opened() as store:
            key = await store.import_key(token.uri("moved"), pkcs1_der())
            custody = key.description.custody
            assert (custody.origin, custody.export) == (Origin.IMPORTED, Export.POSSIBLE_ONCE)
            said = {each.name: each.value for each in custody.evidence}
            assert (said["CKA_SENSITIVE"], said["CKA_EXTRACTABLE"]) == ("true", "false")
            assert (said["CKA_DECRYPT"], said["CKA_SIGN_RECOVER"], said["CKA_UNWRAP"]) == ("false",) * 3
            data = bytes.fromhex(vector["rsa_input_checksum_hex"])
            (made,) = values(await key.sign([SigningInput(Mechanism.TYPE1, data)], in_time()))
            assert made.hex() == vector["rsa_output_checksum_hex"]

    asyncio.run(bring())
    assert objects(token) == 2


def test_an_imported_decryption_key(token: SoftHsmToken) -> None:
    async def bring() -> None:
        async with opened() as store:
            key = await store.import_key(token.uri("moved"), pkcs1_der(), Purpose.DECRYPTION)
            assert isinstance(key, Decrypter)

    asyncio.run(bring())


@pytest.mark.parametrize("second", ["create", "import"])
def test_a_name_that_is_taken_is_refused(token: SoftHsmToken, second: str) -> None:
    async def twice() -> None:
        async with opened() as store:
            first = await store.create_key(token.uri("name"))
            uri = token.uri("name")
            again = store.create_key(uri) if second == "create" else store.import_key(uri, pkcs1_der())
            with pytest.raises(OperatorError, match="already has a key labelled 'name'") as caught:
                await again
            assert caught.value.part == "object"
            await store.open_key(token.uri("name"), first.description.public_key.fingerprint)

    asyncio.run(twice())
    assert objects(token) == 2


def test_an_id_that_is_taken_is_refused_and_a_free_one_is_used(token: SoftHsmToken) -> None:
    async def create() -> None:
        async with opened() as store:
            key = await store.create_key(token.uri("one", extra=";id=%01%02"))
            assert key.description.key_version == "0102"
            with pytest.raises(OperatorError, match="id 0102"):
                await store.create_key(token.uri("two", extra=";id=%01%02"))

    asyncio.run(create())
    assert objects(token) == 2


def test_a_key_needs_a_name(token: SoftHsmToken) -> None:
    async def create() -> None:
        async with opened() as store:
            await store.create_key(token.uri("x").replace("object=x", "id=%01"))

    with pytest.raises(CallerError, match="name the new key"):
        asyncio.run(create())


EC_DER = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
)
SMALL_DER = rsa.generate_private_key(65537, 1024).private_bytes(
    Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
)
EXPONENT_3_DER = rsa.generate_private_key(3, 2048).private_bytes(
    Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
)


@pytest.mark.parametrize(
    "der",
    [b"", b"junk", pkcs1_der()[:-1], pkcs1_der() + b"x", EC_DER, SMALL_DER, EXPONENT_3_DER],
    ids=["empty", "junk", "short", "long", "ec", "small", "exponent"],
)
def test_what_is_no_sound_rsa_key_is_refused_before_the_token_is_asked(tmp_path: Path, der: bytes) -> None:
    async def bring() -> None:
        async with opened() as store:
            await store.import_key(f"pkcs11:object=x?module-path={tmp_path}/none.so", der)

    with pytest.raises(CallerError) as caught:
        asyncio.run(bring())
    assert caught.value.part == "object"


def test_a_key_whose_numbers_do_not_fit_is_refused(tmp_path: Path) -> None:
    der = bytearray(pkcs1_der())
    der[-40] ^= 1
    with pytest.raises(CallerError):
        asyncio.run(_import_nowhere(tmp_path, bytes(der)))


async def _import_nowhere(tmp_path: Path, der: bytes) -> None:
    async with opened() as store:
        await store.import_key(f"pkcs11:object=x?module-path={tmp_path}/none.so", der)


@pytest.mark.parametrize("how", ["create", "import"])
@pytest.mark.parametrize(
    ("function", "code", "error"),
    [
        ("C_Sign", Ckr.DEVICE_ERROR, UnavailableError),
        ("C_Sign", Ckr.MECHANISM_INVALID, CallerError),
        ("C_SignInit", Ckr.KEY_FUNCTION_NOT_PERMITTED, CallerError),
    ],
)
def test_a_key_that_does_not_prove_itself_is_removed(
    token: SoftHsmToken, tmp_path: Path, how: str, function: str, code: int, error: type[BackendError]
) -> None:
    shim = FaultShim.build(tmp_path, token.module_path)

    async def fail() -> None:
        async with opened() as store:
            uri = token.uri("new", module_path=shim.path)
            shim.fail(function, code, lie=True)
            with pytest.raises(error):
                await (store.create_key(uri) if how == "create" else store.import_key(uri, pkcs1_der()))
            shim.clear()
            assert await names(store, token, shim, "new") == [False]

    asyncio.run(fail())
    assert objects(token) == 0


def test_a_token_that_signs_wrongly_keeps_no_key(token: SoftHsmToken, tmp_path: Path) -> None:
    shim = FaultShim.build(tmp_path, token.module_path)
    shim.corrupt("C_Sign")

    async def fail() -> None:
        async with opened() as store:
            await store.import_key(token.uri("new", module_path=shim.path), pkcs1_der())

    with pytest.raises(IntegrityError, match="does not verify"):
        asyncio.run(fail())
    assert objects(token) == 0


def test_half_a_pair_is_removed(token: SoftHsmToken, tmp_path: Path) -> None:
    shim = FaultShim.build(tmp_path, token.module_path)
    shim.fail("C_CreateObject", Ckr.DEVICE_MEMORY, after=1)

    async def fail() -> None:
        async with opened() as store:
            await store.import_key(token.uri("new", module_path=shim.path), pkcs1_der())

    with pytest.raises(BackendError, match="CKR_DEVICE_MEMORY"):
        asyncio.run(fail())
    assert objects(token) == 0


def test_what_cannot_be_removed_is_named(token: SoftHsmToken, tmp_path: Path) -> None:
    shim = FaultShim.build(tmp_path, token.module_path)
    shim.fail("C_Sign", Ckr.DEVICE_ERROR, lie=True)
    shim.fail("C_DestroyObject", Ckr.FUNCTION_FAILED)

    async def fail() -> None:
        async with opened() as store:
            await store.create_key(token.uri("new", module_path=shim.path))

    with pytest.raises(OperatorError, match=r"CKR_DEVICE_ERROR.*CKR_FUNCTION_FAILED.*when asked to remove") as caught:
        asyncio.run(fail())
    assert "labelled 'new'" in caught.value.remedy


@pytest.mark.parametrize("lie", [True, False])
@pytest.mark.parametrize("code", [0x12, Ckr.GENERAL_ERROR])  # 0x12: CKR_ATTRIBUTE_TYPE_INVALID
@pytest.mark.parametrize("function", ["C_GenerateKeyPair", "C_CreateObject"])
def test_a_token_that_takes_fewer_attributes_gets_fewer(
    token: SoftHsmToken, tmp_path: Path, function: str, code: int, lie: bool
) -> None:
    """With `lie` the token made something all the same, and that does not stay."""
    shim = FaultShim.build(tmp_path, token.module_path)
    shim.fail(function, code, times=1, lie=lie)

    async def make() -> None:
        async with opened() as store:
            uri = token.uri("new", module_path=shim.path)
            key = await (
                store.create_key(uri) if function == "C_GenerateKeyPair" else store.import_key(uri, pkcs1_der())
            )
            said = {each.name: each.value for each in key.description.custody.evidence}
            assert (said["CKA_SENSITIVE"], said["CKA_EXTRACTABLE"], said["CKA_SIGN_RECOVER"]) == (
                "true",
                "false",
                "true",
            )

    asyncio.run(make())


def test_a_key_that_nobody_waits_for_any_more_is_removed(token: SoftHsmToken, tmp_path: Path) -> None:
    shim = FaultShim.build(tmp_path, token.module_path)

    async def give_up() -> None:
        async with opened(create_timeout_s=0.05) as store:
            shim.hang("C_GenerateKeyPair")
            with pytest.raises(UnavailableError, match="did not answer within"):
                await store.create_key(token.uri("new", module_path=shim.path))
            shim.clear()

    asyncio.run(give_up())  # closing waits for the call that is inside
    assert objects(token) == 0


MAKE_IN_A_PROCESS = """
import asyncio, sys
from tests.unit.pkcs11.helpers import opened

async def main():
    async with opened() as store:
        key = await store.create_key(sys.argv[1])
        print(key.description.public_key.fingerprint)

asyncio.run(main())
"""


def test_a_key_made_by_another_process_is_seen(token: SoftHsmToken) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAKE_IN_A_PROCESS, token.uri("new")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )

    async def open_it() -> None:
        async with opened() as store:
            await store.open_key(token.uri("new"), done.stdout.strip())

    asyncio.run(open_it())
