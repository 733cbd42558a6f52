"""Keys are opened together; what does not fit stops the start, what is away heals in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal_backends.interface import (
    BackendError,
    IntegrityError,
    Mechanism,
    OperatorError,
    ProcessRestartRequired,
    UnavailableError,
)
from privyseal_service.config.keys import KeyConfig, MinimumCustody
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.domain.operations import SignatureScheme
from privyseal_service.keys.keyring import Keyring, KeyringError, PreparedKeys
from privyseal_service.keys.served_key import KeyState
from privyseal_service.keys.stores import Stores
from tests.fakes.software_store import SoftwareStore


def key_config(name: str, **more: Any) -> KeyConfig:
    fields = {"uri": f"software:{name}", "schemes": (SignatureScheme.CAPGO_V3,), "custody": MinimumCustody(), **more}
    return KeyConfig.model_construct(name=name, **fields)


@pytest.fixture
def store(rsa_key: rsa.RSAPrivateKey) -> SoftwareStore:
    store = SoftwareStore()
    store.add("a", rsa_key)
    store.add("b", rsa_key)
    return store


def keyring(store: SoftwareStore, *keys: KeyConfig) -> Keyring:
    return Keyring(keys, Stores({}, store.backends), first_retry_s=0.01)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came about")


def test_all_keys_are_opened_at_once(store: SoftwareStore) -> None:
    """A store that lets nobody in before everybody knocks."""
    names = ["a", "b"]
    waiting: list[str] = []
    original = store.open_key

    async def main() -> None:
        gate = asyncio.Event()

        async def open_key(uri: str, fingerprint: str | None = None) -> Any:
            waiting.append(uri)
            if len(waiting) == len(names):
                gate.set()
            await gate.wait()
            return await original(uri, fingerprint)

        store.open_key = open_key  # type: ignore[method-assign]
        ring = keyring(store, *(key_config(name) for name in names))
        await ring.open(10)
        assert [key.state for key in ring.keys.values()] == [KeyState.SERVING] * 2
        await ring.close()

    asyncio.run(main())
    assert store.calls.closed == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (key_config("nope"), "key 'nope': object: there is no key nope; make it"),
        (key_config("a", fingerprint="0" * 64), "key 'a': object: another key has the name"),
        (key_config("a", schemes=(SignatureScheme.RSASSA_PSS_SHA256,)), "key 'a': mechanism: the key cannot serve"),
        (key_config("a", uri="other:a"), "key 'a': backend: no key store serves the scheme 'other'"),
        (key_config("a", uri="nonsense"), "key 'a': URI: "),
    ],
)
def test_a_key_that_does_not_fit_stops_the_start(store: SoftwareStore, bad: KeyConfig, says: str) -> None:
    async def main() -> None:
        ring = keyring(store, bad, key_config("b"))
        try:
            with pytest.raises(KeyringError) as caught:
                await ring.open(10)
            assert str(caught.value).startswith(says)
        finally:
            await ring.close()

    asyncio.run(main())


def test_the_sentence_counts_the_others(store: SoftwareStore) -> None:
    async def main() -> None:
        ring = keyring(store, key_config("x"), key_config("a"), key_config("y"))
        with pytest.raises(KeyringError, match=r"key 'x'.*\(1 more keys? failed"):
            await ring.open(10)
        await ring.close()

    asyncio.run(main())


def test_two_names_of_one_key_for_two_purposes_stop_the_start(rsa_key: rsa.RSAPrivateKey) -> None:
    store = SoftwareStore()
    store.add("a", rsa_key, mechanisms=frozenset({Mechanism.TYPE1, Mechanism.PSS_SHA256}))

    async def main(second: SignatureScheme) -> None:
        other = key_config("other name", uri="software:a", schemes=(second,))
        ring = keyring(store, key_config("a"), other)
        try:
            await ring.open(10)
        finally:
            await ring.close()
            store.calls.closed = 0

    asyncio.run(main(SignatureScheme.CAPGO_V2))
    with pytest.raises(KeyringError, match="the same RSA key as 'a', which is for type-1 blocks"):
        asyncio.run(main(SignatureScheme.RSASSA_PSS_SHA256))


def test_a_second_purpose_that_shows_later_is_blocked(rsa_key: rsa.RSAPrivateKey) -> None:
    """Its store was away at the start."""
    store = SoftwareStore()
    store.add("a", rsa_key, mechanisms=frozenset({Mechanism.TYPE1, Mechanism.PSS_SHA256}))
    original, away = store.open_key, True

    async def open_key(uri: str, fingerprint: str | None = None) -> Any:
        if fingerprint is not None and away:
            raise UnavailableError("network", "it is away")
        return await original(uri, fingerprint)

    async def main() -> None:
        nonlocal away
        store.open_key = open_key  # type: ignore[method-assign]
        fingerprint = (await original("software:a")).description.public_key.fingerprint
        second = key_config(
            "b", uri="software:a", fingerprint=fingerprint, schemes=(SignatureScheme.RSASSA_PSS_SHA256,)
        )
        ring = keyring(store, key_config("a"), second)
        await ring.open(10)
        away = False
        await until(lambda: ring.keys["b"].state is KeyState.BLOCKED)
        assert ring.keys["b"].key is None
        assert ring.keys["a"].state is KeyState.SERVING
        await ring.close()

    asyncio.run(main())


def test_a_store_that_is_away_heals(store: SoftwareStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        store.faults.away = True
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        key = ring.keys["a"]
        assert key.state is KeyState.UNAVAILABLE
        with pytest.raises(ServiceError) as caught:
            key.usable()
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.retry_after_s is not None
        assert 0.1 <= caught.value.retry_after_s <= 30
        assert "hsm-7" not in caught.value.message
        await until(lambda: store.calls.opened >= 3)
        store.faults.away = False
        await until(lambda: key.state is KeyState.SERVING)
        assert key.usable() is key.key
        await ring.close()

    asyncio.run(main())
    assert "key 'a' is unavailable" in caplog.text
    assert "key 'a' serves" in caplog.text


def test_a_busy_store_is_tried_again(store: SoftwareStore) -> None:
    async def main() -> None:
        store.faults.busy = True
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        store.faults.busy = False
        await until(lambda: ring.keys["a"].state is KeyState.SERVING)
        await ring.close()

    asyncio.run(main())


def test_a_required_key_that_is_away_stops_the_start(store: SoftwareStore) -> None:
    async def main() -> None:
        store.faults.away = True
        ring = keyring(store, key_config("a"), key_config("b", required=True))
        with pytest.raises(KeyringError) as caught:
            await ring.open(10)
        assert isinstance(caught.value.cause, UnavailableError)
        assert str(caught.value).startswith("key 'b': network: ")
        await ring.close()

    asyncio.run(main())


@pytest.mark.parametrize("required", [True, False])
def test_a_store_that_never_answers(store: SoftwareStore, required: bool) -> None:
    async def main() -> None:
        store.faults.hang = True
        ring = keyring(store, key_config("a", required=required))
        if required:
            with pytest.raises(KeyringError, match=r"did not answer within 0\.05 s"):
                await ring.open(0.05)
        else:
            await ring.open(0.05)
            assert ring.keys["a"].state is KeyState.UNAVAILABLE
        await ring.close()

    asyncio.run(main())
    assert store.calls.closed == 1


def test_a_key_that_turns_out_wrong_later_is_blocked(store: SoftwareStore, caplog: pytest.LogCaptureFixture) -> None:
    """The start is over; the key is not tried again, since only a person can help."""

    async def main() -> None:
        store.faults.away = True
        ring = keyring(store, key_config("a"), key_config("nope"))
        await ring.open(10)
        store.faults.away = False
        await until(lambda: ring.keys["nope"].state is KeyState.BLOCKED)
        await until(lambda: ring.keys["a"].state is KeyState.SERVING)
        tries = store.calls.opened
        await asyncio.sleep(0.05)
        assert store.calls.opened == tries
        with pytest.raises(ServiceError) as caught:
            ring.keys["nope"].usable()
        assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "KEY_BLOCKED")
        await ring.close()

    asyncio.run(main())
    assert "key 'nope' is blocked until somebody acts: object: there is no key nope" in caplog.text


def test_a_backend_with_a_defect(store: SoftwareStore, caplog: pytest.LogCaptureFixture) -> None:
    async def open_key(*_: object) -> Any:
        raise ZeroDivisionError("no backend should")

    store.open_key = open_key  # type: ignore[method-assign]

    async def main() -> None:
        ring = keyring(store, key_config("a"))
        with pytest.raises(KeyringError, match="failed in a way that no backend should"):
            await ring.open(10)
        await ring.close()

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_retries_become_rarer(store: SoftwareStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def main() -> None:
        store.faults.away = True
        ring = Keyring([key_config("a")], Stores({}, store.backends))

        async def watched(delay_s: float) -> None:
            if delay_s:
                waits.append(delay_s)
            await sleep(0)

        monkeypatch.setattr(asyncio, "sleep", watched)
        await ring.open(10)
        while len(waits) < 12:
            await sleep(0)
        await ring.close()

    asyncio.run(main())
    for number, wait_s in enumerate(waits):
        longest = min(1.5, 0.5 * 2**number)
        assert longest / 2 <= wait_s <= longest


def test_closing_goes_on_when_one_store_fails_to(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SoftwareStore):
        async def close(self) -> None:
            raise OSError("cannot")

    broken, fine = Broken(), SoftwareStore()
    stores = Stores({}, {"one": broken, "two": fine}.__getitem__)  # type: ignore[arg-type]
    stores.store("one:a")
    stores.store("two:a")
    asyncio.run(stores.close())
    assert fine.calls.closed == 1
    assert "a key store did not close" in caplog.text


def test_a_store_is_opened_once_and_given_its_settings() -> None:
    seen: list[Any] = []

    def open_store(settings: Any) -> SoftwareStore:
        seen.append(settings)
        return SoftwareStore()

    stores = Stores({"one": {"sessions": 4}}, lambda _: open_store)
    assert stores.store("one:a") is stores.store("ONE:b")
    stores.store("two:c")
    assert seen == [{"sessions": 4}, {}]


class Follower:
    """A key that follows its store, as far as a ServedKey sees it."""

    def __init__(self, key: Any) -> None:
        self.description = key.description
        self.sign = key.sign
        self.tell: Callable[[BackendError | None], None] = lambda _: None
        self.forgotten = False

    def observe(self, tell: Callable[[BackendError | None], None]) -> None:
        self.tell = tell
        tell(None)

    def forget(self) -> None:
        self.forgotten = True


@pytest.mark.parametrize(
    ("problem", "state", "lost"),
    [
        (UnavailableError("token", "gone"), KeyState.UNAVAILABLE, False),
        (ProcessRestartRequired("module", "hangs"), KeyState.UNAVAILABLE, True),
        (OperatorError("PIN", "refused"), KeyState.BLOCKED, False),
        (IntegrityError("object", "another key"), KeyState.BLOCKED, False),
    ],
)
def test_a_key_that_follows_its_store_is_believed_alone(
    store: SoftwareStore, problem: BackendError, state: KeyState, lost: bool
) -> None:
    original = store.open_key

    async def open_key(uri: str, fingerprint: str | None = None) -> Any:
        return Follower(await original(uri, fingerprint))

    async def main() -> None:
        store.open_key = open_key  # type: ignore[method-assign]
        ring = keyring(store, key_config("a"))
        changes: list[tuple[bool, bool]] = []
        ring.on_change(lambda: changes.append((ring.serves, ring.lost is not None)))
        await ring.open(10)
        served = ring.keys["a"]
        served.note(UnavailableError("token", "an answer to one call"))
        assert served.state is KeyState.SERVING
        assert isinstance(served.key, Follower)
        served.key.tell(problem)
        assert (served.state, served.lost) == (state, lost)
        served.key.tell(None)
        assert served.state is KeyState.SERVING
        assert changes[-2:] == [(False, lost), (True, False)]
        await ring.close()

    asyncio.run(main())


@pytest.fixture
def followers(store: SoftwareStore) -> dict[str, list[Follower]]:
    """The store's keys follow it; all that were opened, by their URI."""
    original, opened = store.open_key, dict[str, list[Follower]]()

    async def open_key(uri: str, fingerprint: str | None = None) -> Any:
        opened.setdefault(uri, []).append(Follower(await original(uri, fingerprint)))
        return opened[uri][-1]

    store.open_key = open_key  # type: ignore[method-assign]
    return opened


LOST = ProcessRestartRequired("token", "it is gone")


class Missing:
    """What of a store is not there, until `error` is None."""

    def __init__(self, store: SoftwareStore, error: OperatorError | None, uri: str | None = None) -> None:
        self.error, self.tries = error, 0
        self._original, self._uri = store.open_key, uri
        store.open_key = self._open_key  # type: ignore[method-assign]

    async def _open_key(self, uri: str, fingerprint: str | None = None) -> Any:
        self.tries += 1
        if self.error is not None and uri == (self._uri or uri):
            raise OperatorError(self.error.part, self.error.message)
        return await self._original(uri, fingerprint)


def unprepared(*keys: KeyConfig) -> PreparedKeys:
    """Keys of which the one that is asked did not look at any beforehand."""
    return PreparedKeys(keys, {}, {})


def test_keys_are_adopted_while_their_store_is_lost(
    store: SoftwareStore, followers: dict[str, list[Follower]], caplog: pytest.LogCaptureFixture
) -> None:
    """Frozen, given other schemes, removed: what the store says later of each counts, or does not."""

    async def main() -> None:
        ring = keyring(store, key_config("a"), key_config("b"))
        await ring.open(10)
        a, b = ring.keys["a"], ring.keys["b"]
        for uri in ("software:a", "software:b"):
            followers[uri][0].tell(LOST)
        assert (ring.serves, ring.lost) == (False, LOST)

        ring.adopt(unprepared(key_config("a", schemes=(SignatureScheme.CAPGO_V2,)), key_config("b", state="frozen")))
        assert (ring.keys["a"], ring.keys["b"]) == (a, b)
        assert (a.state, a.schemes) == (KeyState.UNAVAILABLE, {SignatureScheme.CAPGO_V2})
        assert b.state is KeyState.FROZEN
        assert (ring.serves, ring.lost) == (False, LOST)
        followers["software:b"][0].tell(None)
        assert not ring.serves  # a frozen key is of no use to callers of the other
        followers["software:a"][0].tell(None)
        assert (ring.serves, ring.lost) == (True, None)

        followers["software:a"][0].tell(LOST)
        ring.adopt(unprepared(key_config("b", state="frozen")))
        assert (ring.serves, ring.lost) == (True, None)  # who calls is to hear that it is frozen
        assert followers["software:a"][0].forgotten
        caplog.clear()
        followers["software:a"][0].tell(None)
        followers["software:a"][0].tell(LOST)
        a.note(UnavailableError("token", "an answer that comes late"))
        assert ring.lost is None
        assert caplog.text == ""
        await ring.close()

    asyncio.run(main())


def test_a_key_that_is_shut_while_its_store_is_lost(store: SoftwareStore, followers: dict[str, list[Follower]]) -> None:
    async def main() -> None:
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        a, (first,) = ring.keys["a"], followers["software:a"]
        first.tell(LOST)
        ring.adopt(unprepared(key_config("a", schemes=(SignatureScheme.RSASSA_PSS_SHA256,))))
        assert (a.state, ring.lost, first.forgotten) == (KeyState.BLOCKED, None, True)
        first.tell(None)
        a.note("a signature that comes late")
        assert a.state is KeyState.BLOCKED
        ring.adopt(unprepared(key_config("a")))
        await until(lambda: a.state is KeyState.SERVING)
        assert [each.forgotten for each in followers["software:a"]] == [True, False]
        first.tell(LOST)
        assert a.state is KeyState.SERVING
        await ring.close()
        assert followers["software:a"][1].forgotten

    asyncio.run(main())


def test_a_key_that_was_opened_in_vain_is_let_go(store: SoftwareStore, followers: dict[str, list[Follower]]) -> None:
    async def main() -> None:
        ring = keyring(store, key_config("a", schemes=(SignatureScheme.RSASSA_PSS_SHA256,)))
        with pytest.raises(KeyringError):
            await ring.open(10)
        assert [each.forgotten for each in followers["software:a"]] == [True]
        await ring.close()

    asyncio.run(main())


def test_keys_of_a_change_that_is_called_off_are_let_go(
    store: SoftwareStore, followers: dict[str, list[Follower]]
) -> None:
    async def main() -> None:
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        before = dict(ring.keys)
        unfit = key_config("c", uri="software:a", schemes=(SignatureScheme.RSASSA_PSS_SHA256,))
        with pytest.raises(KeyringError, match="key 'c': mechanism"):
            await ring.prepare([key_config("a"), key_config("b"), unfit], 10)
        assert [each.forgotten for each in followers["software:b"]] == [True]
        (await ring.prepare([key_config("a"), key_config("b")], 10)).close()
        assert [each.forgotten for each in followers["software:b"]] == [True, True]
        assert (ring.keys, followers["software:a"][0].forgotten) == (before, False)
        await ring.close()

    asyncio.run(main())


def test_a_token_that_is_not_there_stops_a_change_unless_it_is_one_that_was_lost(
    store: SoftwareStore, followers: dict[str, list[Follower]]
) -> None:
    missing = Missing(store, None)

    async def main() -> None:
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        missing.error = OperatorError("token", "there is none")
        keys = [key_config("a"), key_config("b", uri="software:a")]
        with pytest.raises(KeyringError, match="key 'b': token: there is none"):
            await ring.prepare(keys, 10)
        followers["software:a"][0].tell(LOST)
        with pytest.raises(KeyringError, match="key 'b': token: there is none"):
            await ring.prepare([*keys[:1], key_config("b", uri="software:a", required=True)], 10)
        with pytest.raises(KeyringError, match="key 'b': token: there is none"):
            await ring.prepare([*keys[:1], key_config("b")], 10)  # another token, as far as anybody knows
        ring.adopt(await ring.prepare(keys, 10))
        assert ring.keys["b"].state is KeyState.UNAVAILABLE
        missing.error = None
        await until(lambda: ring.keys["b"].state is KeyState.SERVING)
        await ring.close()

    asyncio.run(main())


def test_what_was_believed_of_a_key_ends_when_it_is_shut(store: SoftwareStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privyseal_service.keys.served_key._ERROR_HOLDS_S", {KeyState.UNAVAILABLE: 0.01})

    async def main() -> None:
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        ring.keys["a"].note(UnavailableError("network", "it is away"))
        ring.adopt(unprepared(key_config("a", schemes=(SignatureScheme.RSASSA_PSS_SHA256,))))
        await asyncio.sleep(0.03)
        assert ring.keys["a"].state is KeyState.BLOCKED
        await ring.close()

    asyncio.run(main())


@pytest.mark.parametrize("part", ["token", "module"])
def test_a_key_that_is_added_while_its_token_is_away_is_looked_for(store: SoftwareStore, part: str) -> None:
    missing = Missing(store, OperatorError(part, "there is none"), "software:b")

    async def main() -> None:
        ring = keyring(store, key_config("a"))
        await ring.open(10)
        ring.adopt(unprepared(key_config("a"), key_config("b")))
        await until(lambda: ring.keys["b"].state is KeyState.BLOCKED)
        missing.error = None
        await until(lambda: ring.keys["b"].state is KeyState.SERVING)
        await ring.close()

    asyncio.run(main())


@pytest.mark.parametrize(("part", "heals"), [("token", True), ("object", True), ("module", True), ("PIN", False)])
def test_what_has_served_before_is_away_and_not_misconfigured(store: SoftwareStore, part: str, heals: bool) -> None:
    """A process that replaces another finds no token where there was one; a PIN is never tried again."""
    missing = Missing(store, OperatorError(part, "there is none"))

    async def main() -> None:
        ring = keyring(store, key_config("a"))
        await ring.open(10, strict=False)
        key = ring.keys["a"]
        assert key.state is (KeyState.UNAVAILABLE if heals else KeyState.BLOCKED)
        if heals:
            await until(lambda: missing.tries >= 3)
            missing.error = None
            await until(lambda: key.state is KeyState.SERVING)
        else:
            await asyncio.sleep(0.05)
            assert missing.tries == 1
        await ring.close()

    asyncio.run(main())
