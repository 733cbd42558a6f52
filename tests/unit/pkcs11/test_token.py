"""Tokens: the right one of several, one login, and a PIN that is never tried twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_backends.pkcs11.store import open_store
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken, import_rsa_key, make_token
from tests.unit.pkcs11.helpers import VECTORS, in_time, opened, type1, values

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000
PEM = VECTORS / "capgo-v3" / "private.pem"


async def sign_one(uri: str, **settings: object) -> int:
    async with opened(**settings) as store:
        key = await store.open_key(uri)
        return len(values(await key.sign(type1(), in_time())))


@pytest.fixture
def twins(tmp_path: Path) -> tuple[SoftHsmToken, SoftHsmToken]:
    """Two tokens with one label, each with a key "demo"."""
    pair = make_token(tmp_path, "twin"), make_token(tmp_path, "twin")
    for each in pair:
        import_rsa_key(each, "demo", PEM)
    return pair


def test_two_tokens_of_one_label_want_a_serial(twins: tuple[SoftHsmToken, SoftHsmToken]) -> None:
    one, _ = twins
    with one.in_this_process():
        with pytest.raises(OperatorError) as caught:
            asyncio.run(sign_one(one.uri("demo")))
        assert caught.value.part == "token"
        for each in twins:
            assert each.serial in caught.value.remedy
            named = each.uri("demo").replace("token=twin", f"token=twin;serial={each.serial}")
            assert asyncio.run(sign_one(named)) == 1
            assert asyncio.run(sign_one(named.replace("token=twin;", ""))) == 1


def test_tokens_of_one_process_are_logged_in_each(twins: tuple[SoftHsmToken, SoftHsmToken]) -> None:
    async def both() -> None:
        uris = [each.uri("demo", extra=f";serial={each.serial}") for each in twins]
        async with opened() as store:
            keys = await asyncio.gather(*(store.open_key(uri) for uri in uris))
            signed = await asyncio.gather(*(key.sign(type1(4), in_time()) for key in keys))
            assert [len(values(each)) for each in signed] == [4, 4]

    with twins[0].in_this_process():
        asyncio.run(both())


def test_a_module_that_shows_no_token_may_look_elsewhere_for_it(token: SoftHsmToken, shim: FaultShim) -> None:
    shim.fail("C_GetTokenInfo", Ckr.TOKEN_NOT_PRESENT)
    with pytest.raises(OperatorError, match="no token labelled") as caught:
        asyncio.run(sign_one(token.uri("demo", module_path=shim.path)))
    assert "SOFTHSM2_CONF" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "part", "word"),
    [
        ("token=unit%20tests", "token=nothing", "token", "no token labelled 'nothing'"),
        ("object=demo", "object=nothing", "object", "no private key labelled 'nothing'"),
        ("token=unit%20tests", "token=unit%20tests;model=Luna", "token", "of the model 'Luna'"),
        ("token=unit%20tests", "token=unit%20tests;manufacturer=Acme", "token", "made by 'Acme'"),
        ("token=unit%20tests", "token=unit%20tests;serial=1", "token", "serial '1'"),
        ("token=unit%20tests", "token=unit%20tests;slot-id=7", "token", "slot 7"),
        ("object=demo", "object=demo;id=%01", "object", "id 01"),
        ("object=demo", "object=demo;library-manufacturer=Acme", "module", "'SoftHSM'"),
        ("object=demo", "object=demo;library-description=Acme", "module", "Implementation"),
        ("object=demo", "object=demo;library-version=9.9", "module", "library-version"),
    ],
)
def test_what_is_not_there_is_named(token: SoftHsmToken, old: str, new: str, part: str, word: str) -> None:
    uri = token.uri("demo")
    assert old in uri
    with pytest.raises(OperatorError) as caught:
        asyncio.run(sign_one(uri.replace(old, new)))
    assert caught.value.part == part
    assert word in caught.value.message
    assert caught.value.remedy


def test_everything_that_a_uri_can_say_of_a_token_may_be_said(token: SoftHsmToken) -> None:
    said = ";manufacturer=SoftHSM%20project;model=SoftHSM%20v2;library-manufacturer=SoftHSM;type=private"
    assert asyncio.run(sign_one(token.uri("demo", extra=f"{said};serial={token.serial}"))) == 1


def test_a_broken_slot_does_not_hide_the_others(tmp_path: Path) -> None:
    good, bad = make_token(tmp_path, "good"), make_token(tmp_path, "bad")
    import_rsa_key(good, "demo", PEM)
    shim = FaultShim.build(tmp_path, good.module_path)
    with good.in_this_process():
        # SoftHSM's slot is the last 31 bits of the token's serial.
        shim.fail("C_GetTokenInfo", Ckr.GENERAL_ERROR, first=int(bad.serial[-8:], 16) & 0x7FFFFFFF)
        assert asyncio.run(sign_one(good.uri("demo", module_path=shim.path))) == 1
        with pytest.raises(UnavailableError, match="CKR_GENERAL_ERROR") as caught:
            asyncio.run(sign_one(bad.uri("demo", module_path=shim.path)))
        assert caught.value.part == "token"


def test_a_token_that_went_away_is_unavailable(token: SoftHsmToken, shim: FaultShim) -> None:
    shim.fail("C_GetSlotList", Ckr.DEVICE_ERROR)
    with pytest.raises(UnavailableError, match="CKR_DEVICE_ERROR"):
        asyncio.run(sign_one(token.uri("demo", module_path=shim.path)))


@pytest.mark.parametrize("function", ["C_GetSlotList", "C_GetTokenInfo", "C_Login"])
def test_a_bad_moment_at_the_start_is_waited_out(token: SoftHsmToken, shim: FaultShim, function: str) -> None:
    shim.fail(function, Ckr.GENERAL_ERROR, times=2)
    assert asyncio.run(sign_one(token.uri("demo", module_path=shim.path))) == 1
    assert shim.calls("C_Initialize") == shim.calls("C_Finalize") == (2 if function == "C_GetTokenInfo" else 3)


def test_a_module_in_use_is_not_initialised_again_for_a_token_that_is_not_there(
    token: SoftHsmToken, shim: FaultShim
) -> None:
    async def look() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened() as store:
            key = await store.open_key(uri)
            with pytest.raises(OperatorError):
                await store.open_key(uri.replace("unit%20tests", "nothing"))
            assert shim.calls("C_Initialize") == 1
            assert len(values(await key.sign(type1(), in_time()))) == 1

    asyncio.run(look())


def test_a_search_that_fails_leaves_the_login_session_free(token: SoftHsmToken, shim: FaultShim) -> None:
    async def look() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened() as store:
            shim.fail("C_FindObjectsInit", Ckr.DEVICE_ERROR, times=1)
            with pytest.raises(UnavailableError) as kept:  # as a service keeps the last error of a key
                await store.open_key(uri)
            assert len(values(await (await store.open_key(uri)).sign(type1(), in_time()))) == 1
            assert kept.value.part == "token"

    asyncio.run(look())


def test_keys_of_one_token_share_one_login(token: SoftHsmToken, shim: FaultShim) -> None:
    async def open_many() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened(threads=2) as store:
            keys = await asyncio.gather(*(store.open_key(uri) for _ in range(5)))
            await asyncio.gather(*(key.sign(type1(3), in_time()) for key in keys))
            assert shim.calls("C_Login") == 1
            assert shim.calls("C_OpenSession") <= 3
        assert shim.calls("C_Logout") == 1

    asyncio.run(open_many())


@pytest.fixture
def alone(tmp_path: Path) -> SoftHsmToken:
    """A token whose PIN count a test may spoil."""
    made = make_token(tmp_path, "alone", pin="4711-right")
    import_rsa_key(made, "demo", PEM)
    return made


def shown(error: BaseException) -> str:
    """All that an error says, with all that it came from."""
    chain = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)  # type: ignore[arg-type]
    return " ".join(f"{each} {each!r} {each.args} {vars(each)}" for each in chain)


def test_a_wrong_pin_is_tried_once_and_never_again(alone: SoftHsmToken, tmp_path: Path) -> None:
    shim = FaultShim.build(tmp_path, alone.module_path)
    uri = alone.uri("demo", module_path=shim.path)
    alone.pin_file.write_text("4711-wrong\n")

    async def try_often() -> None:
        async with opened() as store:
            for _ in range(3):
                failures = await asyncio.gather(*(store.open_key(uri) for _ in range(3)), return_exceptions=True)
                for failure in failures:
                    assert isinstance(failure, OperatorError)
                    assert failure.part == "PIN"
                    assert "4711" not in shown(failure)
            alone.pin_file.write_text("4711-right\n")
            with pytest.raises(OperatorError, match="refused the PIN"):
                await store.open_key(uri)

    with alone.in_this_process():
        asyncio.run(try_often())
        assert shim.calls("C_Login") == 1
        # The token remembers across processes, so a service that starts again and again does not lock it either.
        alone.pin_file.write_text("4711-wrong\n")
        with pytest.raises(OperatorError, match="last login had a wrong PIN") as caught:
            asyncio.run(sign_one(uri))
        assert "try_low_pin_count" in caught.value.remedy
        assert shim.calls("C_Login") == 1
        alone.pin_file.write_text("4711-right\n")
        assert asyncio.run(sign_one(uri, try_low_pin_count=True)) == 1
        assert asyncio.run(sign_one(uri)) == 1


@pytest.mark.parametrize(
    ("flags", "settings", "word"),
    [
        (COUNT_LOW, {}, "last login had a wrong PIN"),
        (FINAL_TRY, {}, "one more wrong PIN locks it"),
        (FINAL_TRY | COUNT_LOW, {"try_low_pin_count": True}, "one more wrong PIN locks it"),
        (LOCKED, {}, "is locked"),
        (LOCKED | FINAL_TRY | COUNT_LOW, {"try_low_pin_count": True}, "is locked"),
    ],
)
def test_a_token_close_to_its_lock_is_not_asked(
    token: SoftHsmToken, shim: FaultShim, flags: int, settings: dict[str, object], word: str
) -> None:
    async def refuse_then_heal() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened(**settings) as store:
            shim.set_token_flags(flags)
            with pytest.raises(OperatorError, match=word) as caught:
                await store.open_key(uri)
            assert caught.value.part == "PIN"
            assert caught.value.remedy
            assert shim.calls("C_Login") == 0
            shim.set_token_flags(0)
            await store.open_key(uri)

    asyncio.run(refuse_then_heal())


@pytest.mark.parametrize("code", [Ckr.PIN_LOCKED, 0xA3, 0x80000001])
def test_what_only_a_person_mends_is_asked_once(token: SoftHsmToken, shim: FaultShim, code: int) -> None:
    async def try_twice() -> None:
        shim.fail("C_Login", code)
        async with opened() as store:
            for _ in range(2):
                with pytest.raises(OperatorError) as caught:
                    await store.open_key(token.uri("demo", module_path=shim.path))
                assert caught.value.part == "PIN"  # which no other process tries either
            assert shim.calls("C_Login") == 1

    asyncio.run(try_twice())


def test_a_login_that_failed_for_another_reason_is_tried_again(token: SoftHsmToken, shim: FaultShim) -> None:
    async def try_twice() -> None:
        shim.fail("C_Login", Ckr.DEVICE_ERROR, times=3)
        async with opened() as store:
            uri = token.uri("demo", module_path=shim.path)
            with pytest.raises(UnavailableError, match="CKR_DEVICE_ERROR"):
                await store.open_key(uri)
            await store.open_key(uri)

    asyncio.run(try_twice())


def test_a_token_that_wants_a_pin_and_gets_none(token: SoftHsmToken) -> None:
    uri, _, _ = token.uri("demo").partition("&pin-source")
    with pytest.raises(OperatorError, match="wants a PIN") as caught:
        asyncio.run(sign_one(uri))
    assert "pin-source" in caught.value.remedy


def test_two_pins_for_one_token_are_told_apart(alone: SoftHsmToken, tmp_path: Path) -> None:
    async def open_both(other_pin: str) -> None:
        other = tmp_path / "other-pin"
        other.write_text(other_pin)
        async with opened() as store:
            await store.open_key(alone.uri("demo"))
            await store.open_key(alone.uri("demo").replace(str(alone.pin_file), str(other)))

    with alone.in_this_process():
        asyncio.run(open_both("4711-right"))
        with pytest.raises(OperatorError, match="different PINs") as caught:
            asyncio.run(open_both("4711-wrong"))
        assert "4711" not in shown(caught.value)


def test_read_write_sessions_on_demand(token: SoftHsmToken) -> None:
    assert asyncio.run(sign_one(token.uri("demo"), read_write=True, sessions=1)) == 1


def test_a_store_opened_and_closed_without_a_key(token: SoftHsmToken) -> None:
    async def close_twice() -> None:
        store = open_store({})
        await store.close()
        await store.close()
        with pytest.raises(BackendError, match="closed"):
            await store.open_key(token.uri("demo"))

    asyncio.run(close_twice())
