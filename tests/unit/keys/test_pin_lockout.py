"""A PIN that a token refused is remembered whenever it is met, and is not tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from privyseal_backends.interface import BackendError, Key, OperatorError, UnavailableError
from privyseal_backends.registry import same_store
from privyseal_service.keys.pin_lockout import PinLockout, RefusedPin

REFUSED = RefusedPin(
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


async def test_a_refused_pin_is_reported_once_and_not_tried_again() -> None:
    asked: list[str] = []
    told: list[RefusedPin] = []

    class Refusing:
        async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
            asked.append(uri)
            raise OperatorError("PIN", REFUSED.message, REFUSED.remedy)

        async def close(self) -> None:
            asked.append("close")

    lockout = PinLockout(on_refusal=told.append)
    store = lockout.guard(lambda scheme: lambda settings: Refusing())("pkcs11")({})

    for uri in (REFUSED.uri, REFUSED.uri.replace("object=a", "object=b")):
        with pytest.raises(OperatorError) as caught:
            await store.open_key(uri)
        assert caught.value.part == "PIN"
    await store.close()
    assert asked == [REFUSED.uri, "close"]
    assert told == list(lockout.refused) == [REFUSED]


def test_other_failures_are_not_remembered() -> None:
    lockout = PinLockout()
    lockout.note(REFUSED.uri, OperatorError("object", "there is none", "make it"))
    lockout.note(REFUSED.uri, UnavailableError("PIN", "it is away"))
    assert lockout.refusal(REFUSED.uri) is None
    assert lockout.add(REFUSED)
    assert not lockout.add(REFUSED)
    assert lockout.refusal(REFUSED.uri) is not None


URI = "pkcs11:token=a;object=k?module-path=/m.so"


OTHER_KEY = "pkcs11:token=a;object=other?module-path=/m.so"


OTHER_TOKEN = "pkcs11:token=b;object=k?module-path=/m.so"


class Store:
    """A store with a key that follows its token."""

    def __init__(self) -> None:
        self.tell: Callable[[BackendError | None], None] = lambda _: None
        self.opened = 0
        self.latched: list[tuple[str, str]] = []

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Any:
        self.opened += 1
        return self

    @property
    def description(self) -> Any:
        raise AssertionError("nobody asks")

    async def sign(self, *_: object) -> Any:
        raise AssertionError("nobody signs")

    def observe(self, tell: Callable[[BackendError | None], None]) -> None:
        self.tell = tell
        tell(None)

    def forget(self) -> None:
        raise AssertionError("nobody lets it go")

    def latch(self, uri: str, error: OperatorError) -> None:
        self.latched.append((uri, error.message))

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_pin_that_is_refused_while_serving_is_remembered() -> None:
    told: list[RefusedPin] = []
    lockout, store = PinLockout(on_refusal=told.append), Store()
    guarded = lockout.guard(lambda _: lambda _: store)("pkcs11")({})
    await guarded.open_key(URI)
    store.tell(UnavailableError("token", "gone"))
    store.tell(None)
    assert lockout.refused == ()
    for _ in range(2):
        store.tell(OperatorError("PIN", "the token 'a' refused the PIN", "correct it"))
    assert told == list(lockout.refused)
    assert len(told) == 1
    with pytest.raises(OperatorError) as caught:
        await guarded.open_key(OTHER_KEY)
    assert caught.value.part == "PIN"
    assert store.opened == 1
    await guarded.open_key(OTHER_TOKEN)
    assert lockout.add(RefusedPin(OTHER_TOKEN, "learned elsewhere", ""))
    assert store.latched[-1] == (OTHER_TOKEN, "learned elsewhere")


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_pin_that_is_refused_after_the_caller_gave_up_is_remembered(refuses: bool) -> None:
    """A key store may answer later than a reload waits for it; the token counts the try all the same."""

    class Slow(Store):
        def __init__(self) -> None:
            super().__init__()
            self.answer, self.forgotten = asyncio.Event(), asyncio.Event()

        async def open_key(self, uri: str, fingerprint: str | None = None) -> Any:
            await self.answer.wait()
            if refuses:
                raise OperatorError("PIN", "the token 'a' refused the PIN", "correct it")
            return self

        def forget(self) -> None:
            self.forgotten.set()

    told = asyncio.Queue[RefusedPin]()
    lockout, store = PinLockout(on_refusal=told.put_nowait), Slow()
    guarded = lockout.guard(lambda _: lambda _: store)("pkcs11")({})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(guarded.open_key(URI), 0.01)
    store.answer.set()
    if refuses:
        assert (await told.get()).uri == URI
    else:
        await store.forgotten.wait()
