"""A PIN that a token refused is not tried again."""

from __future__ import annotations

import pytest

from privyseal_backends.interface import Key, OperatorError, UnavailableError
from privyseal_backends.registry import same_store
from privyseal_service.keys.pin_lockout import Latch, Latches

LATCH = Latch(
    "pkcs11:token=t;object=a?module-path=/m.so&pin-source=file:/p", "the token 't' refused the PIN", "correct"
)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:object=b;token=t?module-path=/m", True),
        ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:token=u;object=a?module-path=/m", False),
        ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:token=t;object=a?module-path=/n", False),
        ("pkcs11:token=a%20b;object=a?module-path=/m", "pkcs11:token=%61%20b;id=%01?module-path=/m", True),
        ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:serial=1;object=a?module-path=/m", True),  # it may be
        ("pkcs11:token=a b;object=a?module-path=/m", "pkcs11:token=a%20b;object=a?module-path=/m", False),  # not a URI
        ("awskms:///a", "awskms:///b", False),
        ("software:a", "software:a", True),
    ],
)
def test_whether_a_token_is_the_same(one: str, other: str, same: bool) -> None:
    assert same_store(one, other) is same_store(other, one) is same


async def test_a_refused_pin_is_told_once_and_no_store_is_asked_again() -> None:
    asked: list[str] = []
    told: list[Latch] = []

    class Refusing:
        async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
            asked.append(uri)
            raise OperatorError("PIN", LATCH.message, LATCH.remedy)

        async def close(self) -> None:
            asked.append("close")

    latches = Latches(tell=told.append)
    store = latches.guard(lambda scheme: lambda settings: Refusing())("pkcs11")({})

    for uri in (LATCH.uri, LATCH.uri.replace("object=a", "object=b")):
        with pytest.raises(OperatorError) as caught:
            await store.open_key(uri)
        assert caught.value.part == "PIN"
    await store.close()
    assert asked == [LATCH.uri, "close"]
    assert told == list(latches.all) == [LATCH]


def test_other_failures_latch_nothing() -> None:
    latches = Latches()
    latches.note(LATCH.uri, OperatorError("object", "there is none", "make it"))
    latches.note(LATCH.uri, UnavailableError("PIN", "it is away"))
    assert latches.refusal(LATCH.uri) is None
    assert latches.add(LATCH)
    assert not latches.add(LATCH)
    assert str(latches.refusal(LATCH.uri)) == "PIN: the token 't' refused the PIN; correct"
