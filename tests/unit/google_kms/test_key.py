"""A group of inputs whose signing meets a fault of the backend's own."""

import asyncio
import math
from types import MappingProxyType

import pytest

from privyseal_backends.google_kms.attestation import Report
from privyseal_backends.google_kms.credentials import Connection
from privyseal_backends.google_kms.custody import assess
from privyseal_backends.google_kms.facts import KeyFacts
from privyseal_backends.google_kms.key import GoogleKmsKey
from privyseal_backends.interface import KeyDescription, Mechanism, PublicKey, SigningInput
from tests.fakes.google_kms.hsm import rsa_key


class Use:
    """A store that is open."""

    def begin(self):
        pass

    def end(self):
        pass


class Broken:
    """Fails once, and else never answers."""

    def __init__(self):
        self.calls = self.left = 0

    async def call(self, *_):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("a fault of our own")
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1


def test_it_is_raised_and_no_call_is_left_behind():
    facts = KeyFacts("name", "ENABLED", "SOFTWARE", "RSA_SIGN_PKCS1_2048_SHA256")
    mechanisms = frozenset({Mechanism.PKCS1_V1_5_SHA256})
    custody = assess(facts, Report(()), roots_configured=False)
    public_key = PublicKey(rsa_key(2048, 1).public_key())
    description = KeyDescription("name", public_key, mechanisms, MappingProxyType({}), custody)
    caller = Broken()

    class Client:
        asymmetric_sign = None

    async def sign():
        key = GoogleKmsKey(Connection(Client(), caller, None), Use(), facts, description, 8)
        with pytest.raises(RuntimeError):
            await key.sign([SigningInput(Mechanism.PKCS1_V1_5_SHA256, bytes(32))] * 5, math.inf)
        return caller.left

    assert asyncio.run(sign()) == 4
