"""Healing: each class of failure by what mends it, in place and with a process that is replaced; what callers see."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    IntegrityError,
    Key,
    Latching,
    Observed,
    OperatorError,
    ProcessBound,
    ProcessRestartRequired,
    Signature,
    UnavailableError,
)
from privyseal_backends.pkcs11.module_registry import MODULES
from privyseal_backends.pkcs11.process_lock import turn
from privyseal_backends.pkcs11.store import Pkcs11Store, open_store
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken, delete_objects, import_rsa_key, make_token
from tests.unit.pkcs11.helpers import VECTORS, in_time, kinds, opened, type1, until, until_it_signs, values

PEM = VECTORS / "capgo-v3" / "private.pem"
CALLS = ("C_Initialize", "C_Login", "C_OpenSession")


class Told:
    """What a key's observer was told."""

    def __init__(self, key: Key) -> None:
        assert isinstance(key, Observed)
        self.all: list[BackendError | None] = []
        key.observe(self.all.append)

    @property
    def last(self) -> BackendError | None:
        return self.all[-1]

    async def until(self, kind: type[BackendError] | None) -> BackendError | None:
        """Wait for a kind of word; None is that it serves."""
        await until(lambda: (type(self.last) if self.last else None) is kind)
        return self.last


def counts(shim: FaultShim) -> list[int]:
    return [shim.calls(name) for name in CALLS]


@contextlib.asynccontextmanager
async def serving(
    token: SoftHsmToken, shim: FaultShim, *, new_process: bool = False, **settings: object
) -> AsyncIterator[tuple[Pkcs11Store, Key, Told]]:
    """An open key that has signed once, and what it tells."""
    async with opened(**{"threads": 2, **settings}) as store:
        assert isinstance(store, ProcessBound)
        if new_process:
            store.prefer_new_process()
        key = await store.open_key(token.uri("demo", module_path=shim.path))
        values(await key.sign(type1(), in_time()))
        yield store, key, Told(key)


# --- a login that is lost ---


@pytest.mark.parametrize("function", ["C_Sign", "C_SignInit", "C_FindObjectsInit"])
def test_a_lost_login_is_made_again_and_nobody_notices(token: SoftHsmToken, shim: FaultShim, function: str) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            initialized, logins, _ = counts(shim)
            if function == "C_FindObjectsInit":
                shim.fail("C_SignInit", Ckr.KEY_HANDLE_INVALID, times=1)  # so that it looks for the key
            shim.fail(function, Ckr.USER_NOT_LOGGED_IN, times=1)
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature"] * 3
            assert counts(shim)[:2] == [initialized, logins + 1]
            assert told.all == [None]

    asyncio.run(sign())


def test_many_threads_that_lost_one_login_make_one(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=4, group=1) as (_, key, _told):
            _, logins, _ = counts(shim)
            shim.fail("C_SignInit", Ckr.USER_NOT_LOGGED_IN, times=4)
            signed = await asyncio.gather(*(key.sign(type1(2), in_time()) for _ in range(8)))
            # Of four losses one after another, somebody may have met two, which is a lost token.
            assert {kind for each in signed for kind in kinds(each)} <= {"Signature", "UnavailableError"}
            await until_it_signs(key)
            assert shim.calls("C_Login") - logins <= 5  # one for each loss, and one where that was a lost token
            assert shim.sessions[next(iter(shim.sessions))] <= 5

    asyncio.run(sign())


def test_a_login_that_takes_long_loses_nobody_the_token(token: SoftHsmToken, shim: FaultShim) -> None:
    """From the logout to the end of the login other threads find no key and hold handles that are void."""

    async def sign() -> None:
        async with serving(token, shim, threads=4) as (_, key, told):
            shim.delay("C_Login", 0.2)
            for _ in range(3):
                shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1)
                assert set(kinds(await key.sign(type1(64), in_time()))) == {"Signature"}
            assert told.all == [None]
            assert shim.calls("C_Initialize") == 1

    asyncio.run(sign())


def test_a_login_that_is_lost_again_at_once_is_a_lost_token(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=2)
            assert kinds(await key.sign(type1(), in_time())) == ["UnavailableError"]
            await until_it_signs(key)
            assert shim.calls("C_Initialize") == 2
            assert [type(each) for each in told.all] == [type(None), UnavailableError, type(None)]

    asyncio.run(sign())


def test_a_pin_that_is_refused_when_logging_in_again_is_tried_once(
    token: SoftHsmToken, shim: FaultShim, caplog: pytest.LogCaptureFixture
) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=2) as (store, key, told):
            shim.fail("C_Login", Ckr.PIN_INCORRECT)
            logins = shim.calls("C_Login")
            shim.fail("C_SignInit", Ckr.USER_NOT_LOGGED_IN)
            results = await asyncio.gather(*(key.sign(type1(4), in_time()) for _ in range(4)))
            assert {kind for each in results for kind in kinds(each)} == {"OperatorError"}
            await told.until(OperatorError)
            shim.clear()
            for _ in range(5):
                assert kinds(await key.sign(type1(), in_time())) == ["OperatorError"]
            with pytest.raises(OperatorError, match="refused the PIN"):
                await store.open_key(token.uri("demo", module_path=shim.path))
            assert shim.calls("C_Login") == logins + 1

    asyncio.run(sign())
    assert "is blocked until an operator acts" in caplog.text


def test_a_token_whose_pin_is_yet_to_be_set_is_waited_for(token: SoftHsmToken, shim: FaultShim) -> None:
    """As while somebody makes it anew: nothing is counted against a PIN, so nothing latches."""

    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Login", 0x102)
            shim.fail("C_Sign", Ckr.DEVICE_REMOVED, times=1)
            logins = shim.calls("C_Login")
            assert kinds(await key.sign(type1(), in_time())) == ["UnavailableError"]
            await until(lambda: shim.calls("C_Login") > logins + 2)
            assert isinstance(told.last, UnavailableError)
            assert "has no user PIN yet" in told.last.message
            shim.clear()
            await told.until(None)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]

    asyncio.run(sign())


@pytest.mark.parametrize("code", [Ckr.PIN_LOCKED, 0xA3, 0x102])
def test_what_a_person_has_to_mend_latches(token: SoftHsmToken, shim: FaultShim, code: int) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Sign", code, times=1)
            assert kinds(await key.sign(type1(3), in_time())) == ["OperatorError"] * 3
            await told.until(OperatorError)
            signs = shim.calls("C_SignInit")
            assert kinds(await key.sign(type1(3), in_time())) == ["OperatorError"] * 3
            assert shim.calls("C_SignInit") == signs

    asyncio.run(sign())


def test_few_tries_left_are_not_used_to_log_in_again(
    token: SoftHsmToken, shim: FaultShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token's word is looked at again, and a login is made once a person has cleared its count."""
    monkeypatch.setattr("privyseal_backends.pkcs11.loss_detector._SLOW_PAUSE_S", 0.05)

    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            logins = shim.calls("C_Login")
            shim.set_token_flags(0x10000)  # CKF_USER_PIN_COUNT_LOW
            shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1)
            assert kinds(await key.sign(type1(), in_time())) == ["OperatorError"]
            await told.until(OperatorError)
            looks = shim.calls("C_GetTokenInfo")
            await until(lambda: shim.calls("C_GetTokenInfo") > looks + 3)
            assert shim.calls("C_Login") == logins
            shim.set_token_flags(0)
            await told.until(None)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_Login") == logins + 1

    asyncio.run(sign())


def test_a_pin_that_another_process_was_refused_is_not_tried_here(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (store, key, told):
            assert isinstance(store, Latching)
            logins = shim.calls("C_Login")
            refused = OperatorError("PIN", "the token refused the PIN", "correct it")
            store.latch("pkcs11:token=another;object=demo?module-path=/m.so", refused)
            shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_Login") == logins + 1
            store.latch(token.uri("other", module_path=shim.path), refused)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]  # it is logged in
            assert told.all == [None]
            shim.clear()
            shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1)
            assert kinds(await key.sign(type1(), in_time())) == ["OperatorError"]
            await told.until(OperatorError)
            assert shim.calls("C_Login") == logins + 1

    asyncio.run(sign())


@contextlib.contextmanager
def another_process_logging_in(shim: FaultShim) -> Iterator[None]:
    """While it does; the module is initialised here, which takes no turn any more."""
    module = MODULES.acquire(str(shim.path), None)
    with turn(str(shim.path)):
        yield
    assert module.release(10.0)


def test_a_pin_that_another_process_is_refused_meanwhile_is_not_tried(token: SoftHsmToken, shim: FaultShim) -> None:
    """Nothing is open on the token here yet: this process waits for its turn, with the same wrong PIN."""
    uri = token.uri("demo", module_path=shim.path)

    async def refuse() -> None:
        async with opened() as store:
            with another_process_logging_in(shim):
                looks = shim.calls("C_GetTokenInfo")
                waiting = asyncio.create_task(store.open_key(uri))
                await until(lambda: shim.calls("C_GetTokenInfo") > looks)
                store.latch(uri, OperatorError("PIN", "the token refused the PIN", "correct it"))
            with pytest.raises(OperatorError, match="refused the PIN"):
                await waiting
            assert shim.calls("C_Login") == 0

    asyncio.run(refuse())


def test_nobody_logs_in_while_another_process_does(
    token: SoftHsmToken, shim: FaultShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its PIN may be about to be refused, however long the token takes to say so."""
    monkeypatch.setattr("privyseal_backends.pkcs11.process_lock._PATIENCE_S", 0.1)
    uri = token.uri("demo", module_path=shim.path)

    async def wait() -> None:
        async with opened() as store:
            with another_process_logging_in(shim):
                with pytest.raises(UnavailableError, match="another process is logging in"):
                    await store.open_key(uri)
                assert shim.calls("C_Login") == 0
            await store.open_key(uri)
            assert shim.calls("C_Login") == 1

    asyncio.run(wait())


LOGIN = """
import asyncio, sys, time
from privyseal_backends.interface import OperatorError
from privyseal_backends.pkcs11.store import open_store
async def main():
    store = open_store({})
    try:
        await store.open_key(sys.argv[1])
    except OperatorError as error:
        print(error.message)
    await store.close()
asyncio.run(main())
"""


def test_processes_that_log_in_at_once_try_a_wrong_pin_once(tmp_path: Path) -> None:
    """Each of them would; the first one's refusal is in the token's own flags when the next one looks."""
    token = make_token(tmp_path, "at once")
    import_rsa_key(token, "demo", PEM)
    shim = FaultShim.build(tmp_path, token.module_path)
    shim.delay("C_Login", 0.3)
    token.pin_file.write_text("9999-wrong\n")
    command = [sys.executable, "-c", LOGIN, token.uri("demo", module_path=shim.path)]
    environment = os.environ | token.environment
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
            for _ in range(3)
        ]
        said = [each.communicate()[0] for each in started]
    assert sorted("refused the PIN" in each for each in said) == [False, False, True]
    assert sum("last login had a wrong PIN" in each for each in said) == 2
    assert shim.calls("C_Login") == 1


# --- a token that is lost ---

LOST = [
    Ckr.DEVICE_ERROR,
    Ckr.DEVICE_REMOVED,
    Ckr.TOKEN_NOT_PRESENT,
    0xE1,
    Ckr.SLOT_ID_INVALID,
    Ckr.CRYPTOKI_NOT_INITIALIZED,
]


@pytest.mark.parametrize("code", LOST)
def test_a_lost_token_is_found_again_by_itself(token: SoftHsmToken, shim: FaultShim, code: int) -> None:
    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            shim.fail("C_Sign", code, times=1)
            (result,) = await key.sign(type1(), in_time())
            assert type(result) is UnavailableError
            assert 0.1 <= result.retry_after_s <= 2
            await told.until(None)  # without anybody who signs
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature"] * 3
            assert [type(each) for each in told.all] == [type(None), UnavailableError, type(None)]
            assert (shim.calls("C_Initialize"), shim.calls("C_Finalize")) == (2, 1)

    asyncio.run(sign())


def test_a_token_that_stays_away_is_looked_for_with_growing_pauses(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            shim.fail("C_GetSlotList", Ckr.DEVICE_ERROR)
            shim.fail("C_Sign", Ckr.DEVICE_REMOVED, times=1)
            await key.sign(type1(), in_time())
            started_s, starts, times = time.monotonic(), shim.calls("C_Initialize"), []
            for number in range(1, 6):
                await until(lambda n=number: shim.calls("C_Initialize") >= starts + n)  # type: ignore[misc]
                times.append(time.monotonic() - started_s)
            assert times[-1] >= 0.05 + 0.1 + 0.2 + 0.4 - 0.05  # half of 0.1, 0.2, 0.4, 0.8 s at least
            (result,) = await key.sign(type1(), in_time())
            assert isinstance(result, UnavailableError)
            assert isinstance(told.last, UnavailableError)
            shim.clear()
            await told.until(None)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]

    asyncio.run(sign())


def test_a_token_whose_folder_is_moved_away_and_back(tmp_path: Path) -> None:
    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            away = token.tokens_folder.with_name("away")
            shutil.move(token.tokens_folder, away)
            await until_refused(key)
            assert isinstance(told.last, UnavailableError)
            shutil.move(away, token.tokens_folder)
            await told.until(None)
            assert kinds(await key.sign(type1(5), in_time())) == ["Signature"] * 5
            assert sum(shim.sessions.values()) <= 3

    async def until_refused(key: Key) -> None:
        while isinstance((await key.sign(type1(), in_time()))[0], Signature):
            await asyncio.sleep(0)

    token = make_token(tmp_path, "moved")
    import_rsa_key(token, "demo", PEM)
    shim = FaultShim.build(tmp_path, token.module_path)
    with token.in_this_process():
        asyncio.run(sign())


def test_a_token_made_anew_with_the_same_key_is_used_and_with_another_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its serial and its slot are others then; it is found by its label, and the key by its fingerprint."""
    monkeypatch.setattr("privyseal_backends.pkcs11.loss_detector._SLOW_PAUSE_S", 0.1)

    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            for pem, then in ((PEM, None), (VECTORS / "capgo-v2" / "private.pem", IntegrityError), (PEM, None)):
                for folder in token.tokens_folder.iterdir():
                    shutil.rmtree(folder)
                while isinstance((await key.sign(type1(), in_time()))[0], Signature):
                    await asyncio.sleep(0)
                # Whole at once: SoftHSM's own tool fails beside a module that reads a token which is half made.
                again = make_token(elsewhere, "same")
                import_rsa_key(again, "demo", pem)
                for folder in again.tokens_folder.iterdir():
                    folder.rename(token.tokens_folder / folder.name)
                await told.until(then)
                (result,) = await key.sign(type1(), in_time())
                assert isinstance(result, Signature if then is None else IntegrityError)

    elsewhere = tmp_path / "elsewhere"
    token = make_token(tmp_path, "same")
    import_rsa_key(token, "demo", PEM)
    shim = FaultShim.build(tmp_path, token.module_path)
    with token.in_this_process():
        asyncio.run(sign())


def test_a_key_made_anew_with_other_attributes_is_not_used(tmp_path: Path) -> None:
    """Its custody was found from the attributes that it had."""

    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            delete_objects(token, "demo")
            import_rsa_key(token, "demo", PEM, extractable=True)
            (result,) = await key.sign(type1(), in_time())
            assert isinstance(result, IntegrityError)
            assert "CKA_EXTRACTABLE" in result.message
            await told.until(IntegrityError)

    token = make_token(tmp_path, "loosened")
    import_rsa_key(token, "demo", PEM)
    shim = FaultShim.build(tmp_path, token.module_path)
    with token.in_this_process():
        asyncio.run(sign())


def test_one_key_of_two_that_is_deleted_leaves_the_other_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privyseal_backends.pkcs11.loss_detector._SLOW_PAUSE_S", 0.1)

    async def sign() -> None:
        async with serving(token, shim) as (store, key, told):
            other = await store.open_key(token.uri("other", module_path=shim.path))
            values(await other.sign(type1(), in_time()))
            told_of_other = Told(other)
            delete_objects(token, "other")
            assert kinds(await other.sign(type1(), in_time())) == ["UnavailableError"]
            await told_of_other.until(UnavailableError)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert told.all == [None]
            import_rsa_key(token, "other", VECTORS / "capgo-v2" / "private.pem")
            await told_of_other.until(None)
            assert kinds(await other.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_Initialize") == 1

    token = make_token(tmp_path, "two")
    import_rsa_key(token, "demo", PEM)
    import_rsa_key(token, "other", VECTORS / "capgo-v2" / "private.pem")
    shim = FaultShim.build(tmp_path, token.module_path)
    with token.in_this_process():
        asyncio.run(sign())


def test_a_key_that_is_used_no_more_is_looked_for_no_more(tmp_path: Path) -> None:
    """It may be deleted then, and even a call that comes late with it says nothing of the token."""

    async def sign() -> None:
        async with serving(token, shim) as (store, key, told):
            other = await store.open_key(token.uri("other", module_path=shim.path))
            third = await store.open_key(token.uri("third", module_path=shim.path))
            told_of_other = Told(other)
            assert isinstance(other, Observed)
            other.forget()
            other.forget()
            assert kinds(await other.sign(type1(), in_time())) == ["Signature"]
            delete_objects(token, "other")
            assert kinds(await other.sign(type1(), in_time())) == ["UnavailableError"]
            searches = shim.calls("C_FindObjectsInit")
            for each in (key, third):
                assert kinds(await each.sign(type1(), in_time())) == ["Signature"]
            await asyncio.sleep(0.2)
            assert shim.calls("C_FindObjectsInit") <= searches + 4
            shim.fail("C_SignInit", Ckr.DEVICE_REMOVED, times=1)
            await until_it_signs(key)
            assert [type(each) for each in told.all] == [type(None), UnavailableError, type(None)]
            assert told_of_other.all == [None]

    token = make_token(tmp_path, "three")
    import_rsa_key(token, "demo", PEM)
    for label in ("other", "third"):
        import_rsa_key(token, label, VECTORS / "capgo-v2" / "private.pem", id=label.encode().hex())
    shim = FaultShim.build(tmp_path, token.module_path)
    with token.in_this_process():
        asyncio.run(sign())


def test_a_token_that_comes_while_another_is_in_use_is_found(tmp_path: Path) -> None:
    """As in a process that took over while one token of two was away."""

    async def sign() -> None:
        async with serving(one, shim, new_process=True) as (store, key, told):
            shutil.move(away, there)
            keys: list[Key] = []

            async def found() -> bool:
                with contextlib.suppress(OperatorError):
                    keys.append(await store.open_key(two.uri("demo", module_path=shim.path)))
                return bool(keys)

            for _ in range(100):
                if await found():
                    break
                assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert keys
            for each in (key, *keys):
                assert kinds(await each.sign(type1(), in_time())) == ["Signature"]
            assert told.all == [None]

    one = make_token(tmp_path, "one")
    before = set(one.tokens_folder.iterdir())
    two = make_token(tmp_path, "two")
    (there,) = set(one.tokens_folder.iterdir()) - before
    away = tmp_path / "away"
    for each in (one, two):
        import_rsa_key(each, "demo", PEM)
    shutil.move(there, away)
    shim = FaultShim.build(tmp_path, one.module_path)
    with one.in_this_process():
        asyncio.run(sign())


def test_one_token_of_two_that_is_lost_does_not_lose_the_others_callers(tmp_path: Path) -> None:
    async def sign() -> None:
        async with serving(one, shim) as (store, key, _):
            other = await store.open_key(two.uri("demo", module_path=shim.path))
            values(await other.sign(type1(), in_time()))
            told_of_other = Told(other)
            signed: list[str] = []

            async def go_on() -> None:
                while not ended:
                    signed.extend(kinds(await other.sign(type1(4), in_time())))

            ended = False
            going = asyncio.create_task(go_on())
            for _ in range(3):
                shim.fail("C_OpenSession", Ckr.TOKEN_NOT_PRESENT, times=1, first=slot(one))
                shim.fail("C_SignInit", Ckr.SESSION_CLOSED, times=1)
                await until_it_signs(key)
                before = len(signed)
                await until(lambda n=before: len(signed) > n + 8)  # type: ignore[misc]
                shim.clear()
            ended = True
            await going
            assert set(signed) == {"Signature"}
            assert told_of_other.all[0] is None
            assert told_of_other.last is None

    def slot(token: SoftHsmToken) -> int:
        return int(token.serial[-8:], 16) & 0x7FFFFFFF

    one, two = make_token(tmp_path, "one"), make_token(tmp_path, "two")
    for each in (one, two):
        import_rsa_key(each, "demo", PEM)
    shim = FaultShim.build(tmp_path, one.module_path)
    with one.in_this_process():
        asyncio.run(sign())


def test_a_device_that_answers_searches_and_nothing_else_is_not_taken_for_healed(
    token: SoftHsmToken, shim: FaultShim
) -> None:
    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            shim.fail("C_GenerateRandom", Ckr.GENERAL_ERROR)
            shim.fail("C_Sign", Ckr.DEVICE_ERROR, times=1)
            await key.sign(type1(), in_time())
            starts = shim.calls("C_Initialize")
            await until(lambda: shim.calls("C_Initialize") > starts + 2)
            assert None not in told.all[1:]
            shim.clear()
            await told.until(None)

    asyncio.run(sign())


def test_a_token_without_a_generator_heals_too(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim) as (_, key, told):
            shim.fail("C_GenerateRandom", 0x121)
            shim.fail("C_Sign", Ckr.DEVICE_ERROR, times=1)
            await key.sign(type1(), in_time())
            await told.until(None)

    asyncio.run(sign())


# --- one failure is nothing, many are a lost token ---


def test_a_failure_without_a_reason_is_tried_again(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            for _ in range(5):
                shim.fail("C_Sign", Ckr.GENERAL_ERROR, times=1)
                assert kinds(await key.sign(type1(2), in_time())) == ["Signature"] * 2
                shim.clear()
            assert told.all == [None]
            assert shim.calls("C_Initialize") == 1

    asyncio.run(sign())


@pytest.mark.parametrize("code", [Ckr.GENERAL_ERROR, 0x80000001])
def test_failures_without_a_reason_and_nothing_else_are_a_lost_token(
    token: SoftHsmToken, shim: FaultShim, code: int
) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Sign", code)
            assert set(kinds(await key.sign(type1(2), in_time()))) == {"UnavailableError"}
            await told.until(UnavailableError)
            shim.clear()
            await told.until(None)
            await until_it_signs(key)
            assert shim.calls("C_Initialize") >= 2

    asyncio.run(sign())


# --- busy ---


@pytest.mark.parametrize(
    "code", [Ckr.FUNCTION_FAILED, Ckr.HOST_MEMORY, Ckr.DEVICE_MEMORY, Ckr.SESSION_COUNT, 0x50, 0x200]
)
def test_a_busy_token_is_given_a_moment_and_the_session_is_kept(
    token: SoftHsmToken, shim: FaultShim, code: int
) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            sessions = shim.calls("C_OpenSession")
            shim.fail("C_Sign", code, times=3, lie=True)
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature"] * 3
            assert shim.calls("C_OpenSession") == sessions
            assert told.all == [None]

    asyncio.run(sign())


def test_a_busy_token_that_leaves_its_operation_active(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Sign", Ckr.FUNCTION_FAILED, times=3)
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature"] * 3
            assert told.all == [None]

    asyncio.run(sign())


def test_a_token_that_stays_busy_is_said_to_be(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Sign", Ckr.DEVICE_MEMORY, lie=True)
            (result,) = await key.sign(type1(), in_time())
            assert isinstance(result, BusyError)
            assert result.retry_after_s > 0
            (late,) = await key.sign(type1(), time.monotonic() + 0.01)
            assert type(late).__name__ in ("BusyError", "DeadlineError")
            shim.clear()
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert told.all == [None]

    asyncio.run(sign())


def test_nothing_but_failed_functions_for_some_time_are_a_lost_token(
    token: SoftHsmToken, shim: FaultShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privyseal_backends.pkcs11.loss_detector._FAILING_S", 0.05)

    async def sign() -> None:
        async with serving(token, shim, threads=1) as (_, key, told):
            shim.fail("C_Sign", Ckr.FUNCTION_FAILED)
            while told.last is None:
                assert {kind[:4] for kind in kinds(await key.sign(type1(), in_time()))} <= {"Busy", "Unav"}
            shim.clear()
            await told.until(None)
            await until_it_signs(key)

    asyncio.run(sign())


def test_fewer_sessions_than_threads_lose_no_call(
    token: SoftHsmToken, shim: FaultShim, caplog: pytest.LogCaptureFixture
) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=4, group=1) as (_, key, told):
            shim.fail("C_OpenSession", Ckr.SESSION_COUNT)
            signed = await asyncio.gather(*(key.sign(type1(3), in_time()) for _ in range(8)))
            assert [kinds(each) for each in signed] == [["Signature"] * 3] * 8
            assert told.all == [None]

    asyncio.run(sign())
    assert "lower `sessions`" in caplog.text


# --- calls that wait ---


def test_calls_wait_for_the_token_where_the_settings_say_so(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, wait_for_token=True) as (_, key, told):
            shim.fail("C_GetSlotList", Ckr.DEVICE_ERROR, times=3)
            shim.fail("C_Sign", Ckr.DEVICE_REMOVED, times=1)
            signed = await asyncio.gather(*(key.sign(type1(3), in_time()) for _ in range(6)))
            assert [kinds(each) for each in signed] == [["Signature"] * 3] * 6
            assert UnavailableError in [type(each) for each in told.all]

    asyncio.run(sign())


def test_a_call_does_not_wait_beyond_its_deadline_nor_the_stores_end(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, wait_for_token=True) as (store, key, told):
            shim.fail("C_GetSlotList", Ckr.DEVICE_ERROR)
            shim.fail("C_Sign", Ckr.DEVICE_REMOVED, times=1)
            waiting = asyncio.create_task(key.sign(type1(), in_time()))
            await told.until(UnavailableError)
            (late,) = await key.sign(type1(), time.monotonic() + 0.2)
            assert type(late).__name__ in ("DeadlineError", "UnavailableError")
            assert not waiting.done()
            await store.close()
            assert kinds(await waiting) == ["UnavailableError"]

    asyncio.run(sign())


# --- a call that hangs ---


def test_a_call_that_hangs_is_for_a_new_process_and_nobody_waits_for_it(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1, hang_after_s=0.5, wait_for_token=True) as (_, key, told):
            shim.hang("C_Sign")
            calls = [asyncio.create_task(key.sign(type1(2), in_time())) for _ in range(3)]
            for each in calls:
                assert kinds(await each) == ["ProcessRestartRequired"] * 2  # long before their deadlines
            assert isinstance(told.last, ProcessRestartRequired)
            assert kinds(await key.sign(type1(), in_time())) == ["ProcessRestartRequired"]
            assert shim.calls("C_Finalize") == 0
            shim.clear()  # it comes back after all
            await told.until(None)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]

    asyncio.run(sign())


def test_what_was_signed_before_a_hang_and_not_answered_is_answered(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1, hang_after_s=0.2) as (_, key, told):
            await key.sign(type1(), in_time())
            shim.hang("C_SignInit", after=2)
            answers = await asyncio.gather(*(key.sign(type1(), in_time()) for _ in range(4)))
            assert [kinds(each) for each in answers] == [["ProcessRestartRequired"]] * 4  # long before their deadlines
            shim.clear()
            await told.until(None)

    asyncio.run(sign())


def test_a_module_is_not_begun_anew_under_a_call_that_is_inside(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=2, hang_after_s=0.5) as (_, key, told):
            shim.hang("C_Sign", times=1)
            signs = shim.calls("C_Sign")
            hanging = asyncio.create_task(key.sign(type1(), in_time()))
            await until(lambda: shim.calls("C_Sign") > signs)
            shim.fail("C_SignInit", Ckr.DEVICE_ERROR, times=1)
            assert "Signature" not in kinds(await key.sign(type1(), in_time()))
            await told.until(ProcessRestartRequired)
            assert shim.calls("C_Finalize") == 0
            assert kinds(await hanging) == ["ProcessRestartRequired"]
            shim.clear()
            await told.until(None)

    asyncio.run(sign())


def test_a_store_with_a_hanging_call_closes_at_once(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, threads=1, hang_after_s=0.5, close_timeout_s=1000) as (store, key, told):
            shim.hang("C_Sign")
            await key.sign(type1(), in_time())
            await told.until(ProcessRestartRequired)
            await store.close()
            assert shim.calls("C_Finalize") == 0
            shim.clear()
            assert MODULES.acquire(str(shim.path), None).release(60)

    asyncio.run(sign())


def test_a_module_that_hangs_when_a_key_is_opened(token: SoftHsmToken, shim: FaultShim) -> None:
    async def open_it() -> None:
        async with opened(open_timeout_s=0.1) as store:
            shim.hang("C_GetSlotList")
            with pytest.raises(ProcessRestartRequired):
                await store.open_key(token.uri("demo", module_path=shim.path))
            shim.clear()

    asyncio.run(open_it())


# --- a process that is replaced ---


@pytest.mark.parametrize("code", [Ckr.DEVICE_REMOVED, Ckr.CRYPTOKI_NOT_INITIALIZED])
def test_a_loss_is_left_to_a_new_process_where_one_comes(token: SoftHsmToken, shim: FaultShim, code: int) -> None:
    async def sign() -> None:
        async with serving(token, shim, new_process=True) as (_, key, told):
            shim.fail("C_GenerateRandom", code)
            shim.fail("C_Sign", code, times=1)
            (result,) = await key.sign(type1(), in_time())
            assert isinstance(result, ProcessRestartRequired)
            await told.until(ProcessRestartRequired)
            searches = shim.calls("C_GenerateRandom")
            await until(lambda: shim.calls("C_GenerateRandom") >= searches + 2)
            assert (shim.calls("C_Initialize"), shim.calls("C_Finalize"), shim.calls("C_Login")) == (1, 0, 1)
            # A token that works again before the new process has come is used again.
            shim.clear()
            await told.until(None)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_Finalize") == 0

    asyncio.run(sign())


def test_a_lost_login_needs_no_new_process(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with serving(token, shim, new_process=True, threads=1) as (_, key, told):
            shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1)
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert told.all == [None]

    asyncio.run(sign())


def test_a_call_waits_a_while_only_for_a_process_that_is_replaced(
    token: SoftHsmToken, shim: FaultShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privyseal_backends.pkcs11.token_connection._NEW_PROCESS_S", 0.1)

    async def sign() -> None:
        async with serving(token, shim, new_process=True, wait_for_token=True) as (_, key, _told):
            shim.fail("C_GenerateRandom", Ckr.DEVICE_ERROR)
            shim.fail("C_Sign", Ckr.DEVICE_ERROR, times=1)
            assert kinds(await key.sign(type1(), in_time())) == ["ProcessRestartRequired"]

    asyncio.run(sign())


# --- what stays behind ---


def test_sessions_and_threads_are_as_before_after_many_losses(token: SoftHsmToken, shim: FaultShim) -> None:
    import threading  # noqa: PLC0415

    async def sign() -> None:
        async with serving(token, shim, threads=2) as (_, key, told):
            await asyncio.gather(*(key.sign(type1(8), in_time()) for _ in range(8)))
            (before,) = shim.sessions.values()
            threads = threading.active_count()
            lose: list[Callable[[], None]] = [
                lambda: shim.fail("C_Sign", Ckr.DEVICE_ERROR, times=1),
                lambda: shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1),
                lambda: shim.fail("C_SignInit", Ckr.SESSION_HANDLE_INVALID, times=1),
                lambda: shim.fail("C_Sign", Ckr.GENERAL_ERROR, times=2),
            ]
            for each in lose * 5:
                each()
                await key.sign(type1(4), in_time())
                shim.clear()
                await until_it_signs(key)
            await told.until(None)
            await asyncio.gather(*(key.sign(type1(8), in_time()) for _ in range(8)))
            await until(lambda: threading.active_count() <= threads)
            assert list(shim.sessions.values()) == [before]

    asyncio.run(sign())


def test_two_stores_on_one_module_heal_together(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        uri = token.uri("demo", module_path=shim.path)
        one, two = open_store({}), open_store({})
        try:
            keys = [await store.open_key(uri) for store in (one, two)]
            for key in keys:
                values(await key.sign(type1(), in_time()))
            for losing in keys:
                shim.fail("C_Sign", Ckr.DEVICE_ERROR, times=1)
                assert kinds(await losing.sign(type1(), in_time())) == ["UnavailableError"]
                for key in keys:
                    await until_it_signs(key)
            shim.fail("C_Sign", Ckr.USER_NOT_LOGGED_IN, times=1)
            for key in keys:
                assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
        finally:
            await one.close()
            await two.close()

    asyncio.run(sign())
