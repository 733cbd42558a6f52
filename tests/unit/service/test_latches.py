"""Refused PINs are remembered whenever they are met, and what a worker says has one form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_service.keys.pin_lockout import Latch, Latches

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


def test_a_pin_that_is_refused_while_serving_is_latched_as_well() -> None:
    async def main() -> None:
        told: list[Latch] = []
        latches, store = Latches(tell=told.append), Store()
        guarded = latches.guard(lambda _: lambda _: store)("pkcs11")({})
        await guarded.open_key(URI)
        store.tell(UnavailableError("token", "gone"))
        store.tell(None)
        assert latches.all == ()
        for _ in range(2):
            store.tell(OperatorError("PIN", "the token 'a' refused the PIN", "correct it"))
        assert told == list(latches.all)
        assert len(told) == 1
        with pytest.raises(OperatorError, match="refused the PIN"):
            await guarded.open_key(OTHER_KEY)
        assert store.opened == 1
        await guarded.open_key(OTHER_TOKEN)
        assert latches.add(Latch(OTHER_TOKEN, "learned elsewhere", ""))
        assert store.latched[-1] == (OTHER_TOKEN, "learned elsewhere")

    asyncio.run(main())


@pytest.mark.parametrize("refuses", [True, False])
def test_a_pin_that_is_refused_after_whoever_opened_the_key_gave_up_is_latched(refuses: bool) -> None:
    """As when a key store is silent for longer than a reload waits for it: the token counts the try all the same."""

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

    async def main() -> None:
        told = asyncio.Queue[Latch]()
        latches, store = Latches(tell=told.put_nowait), Slow()
        guarded = latches.guard(lambda _: lambda _: store)("pkcs11")({})
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(guarded.open_key(URI), 0.01)
        store.answer.set()
        if refuses:
            assert (await told.get()).uri == URI
        else:
            await store.forgotten.wait()

    asyncio.run(main())
