"""A SoftHSM token with the vectors' keys makes the very bytes that the published CLI made."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from privyseal_backends.interface import Decrypter, Key, KeyCreator, KeyStore, Mechanism, Signature, SigningInput
from privyseal_backends.pkcs11.store import open_store
from tests.support.softhsm import import_rsa_key, make_token

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize("name", ["capgo-v2", "capgo-v3"])
def test_every_rsa_output_is_exact(tmp_path: Path, name: str) -> None:
    vector = json.loads((VECTORS / name / "vector.json").read_text())
    token = make_token(tmp_path, "vectors")
    import_rsa_key(token, name, VECTORS / name / "private.pem")

    async def sign() -> list[str]:
        store = open_store({})
        try:
            key = await store.open_key(token.uri(name))
            assert isinstance(store, KeyStore)
            assert isinstance(store, KeyCreator)
            assert isinstance(key, Key)
            assert not isinstance(key, Decrypter)
            assert key.description.public_key.capgo_key_id == vector["key_id"]
            assert key.description.public_key.pkcs1_pem == (VECTORS / name / "public.pem").read_text()
            inputs = [bytes.fromhex(vector[f"rsa_input_{what}_hex"]) for what in ("session_key", "checksum")]
            results = await key.sign([SigningInput(Mechanism.TYPE1, data) for data in inputs], time.monotonic() + 30)
            return [result.value.hex() for result in results if isinstance(result, Signature)]
        finally:
            await store.close()

    with token.in_this_process():
        made = asyncio.run(sign())
    assert made == [vector[f"rsa_output_{what}_hex"] for what in ("session_key", "checksum")]
