"""Signing: many at once, faults that hit one input alone, hangs that block nobody, handles found again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privyseal_backends.interface import (
    BackendError,
    CallerError,
    IntegrityError,
    Mechanism,
    Signature,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.pkcs11.queue import Batch
from privyseal_backends.verification import verify
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken, delete_objects, generate_rsa_key, import_rsa_key, make_token
from tests.unit.pkcs11.helpers import VECTORS, in_time, kinds, opened, type1, until, until_it_signs, values

SIGNING = (Mechanism.TYPE1, Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256)


def test_many_tasks_at_once(token: SoftHsmToken) -> None:
    async def many() -> None:
        async with opened(threads=4, group=3) as store:
            key = await store.open_key(token.uri("demo"))

            async def one(number: int) -> None:
                inputs = [SigningInput(each, bytes([number]) * 32) for each in SIGNING * 3]
                for each, result in zip(inputs, await key.sign(inputs, in_time()), strict=True):
                    assert isinstance(result, Signature)
                    verify(key.description.public_key, each, result.value)
                    assert result.store_s > 0
                    assert result.queued_s >= 0

            await asyncio.gather(*(one(number) for number in range(32)))

    asyncio.run(many())


@pytest.mark.parametrize("bits", [3072, 4096])
def test_larger_keys_sign_rsassa_and_no_type_1(tmp_path: Path, bits: int) -> None:
    async def sign() -> None:
        async with opened() as store:
            key = await store.open_key(token.uri("large"))
            results = await key.sign([SigningInput(each, bytes(32)) for each in SIGNING], in_time())
            assert kinds(results) == ["CallerError", "Signature", "Signature"]
            assert "2048" in str(results[0])
            assert {len(value) for value in values(results[1:])} == {bits // 8}

    token = make_token(tmp_path, "large")
    generate_rsa_key(token, "large", bits)
    with token.in_this_process():
        asyncio.run(sign())


def test_no_input_is_no_work(token: SoftHsmToken) -> None:
    async def sign() -> None:
        async with opened() as store:
            assert await (await store.open_key(token.uri("demo"))).sign([], in_time()) == []

    asyncio.run(sign())


@pytest.mark.parametrize(
    ("code", "error", "part"),
    [
        (Ckr.DATA_LEN_RANGE, CallerError, "mechanism"),
        (Ckr.KEY_FUNCTION_NOT_PERMITTED, CallerError, "attribute"),
        (Ckr.MECHANISM_INVALID, CallerError, "mechanism"),
    ],
)
@pytest.mark.parametrize("lie", [True, False])
def test_a_failed_signature_fails_its_own_input_alone(
    token: SoftHsmToken, shim: FaultShim, code: int, error: type[BackendError], part: str, lie: bool
) -> None:
    """Without `lie` the token leaves the operation active in the session, so a session that was kept would fail on."""

    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            shim.fail("C_Sign", code, times=1, after=2, lie=lie)
            results = await key.sign(type1(5), in_time())
            assert kinds(results) == ["Signature", "Signature", error.__name__, "Signature", "Signature"]
            failure = results[2]
            assert isinstance(failure, BackendError)
            assert failure.part == part

    asyncio.run(sign())


@pytest.mark.parametrize(
    "code",
    [
        Ckr.SESSION_HANDLE_INVALID,
        Ckr.SESSION_CLOSED,
        Ckr.OBJECT_HANDLE_INVALID,
        Ckr.KEY_HANDLE_INVALID,
        Ckr.OPERATION_ACTIVE,
        0x91,
    ],
)
def test_a_stale_handle_is_found_again_once(token: SoftHsmToken, shim: FaultShim, code: int) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            await key.sign(type1(), in_time())
            sessions = shim.calls("C_OpenSession")
            shim.fail("C_SignInit", code, times=1)
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature"] * 3
            assert shim.calls("C_OpenSession") == sessions + 1
            shim.clear()
            shim.fail("C_SignInit", code, times=2)
            (lost, *_) = await key.sign(type1(3), in_time())
            assert isinstance(lost, UnavailableError)
            assert "twice" in lost.message
            await until_it_signs(key)
            assert shim.calls("C_Initialize") == 2

    asyncio.run(sign())


def test_another_key_under_the_same_name_is_never_used(tmp_path: Path) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            values(await key.sign(type1(), in_time()))
            delete_objects(token, "demo")
            import_rsa_key(token, "demo", VECTORS / "capgo-v2" / "private.pem")
            shim.fail("C_SignInit", Ckr.OBJECT_HANDLE_INVALID, times=1)
            (result,) = await key.sign(type1(), in_time())
            assert isinstance(result, IntegrityError)
            assert result.part == "object"

    token = make_token(tmp_path, "swapped")
    import_rsa_key(token, "demo", VECTORS / "capgo-v3" / "private.pem")
    shim = FaultShim.build(tmp_path, token.module_path)
    with token.in_this_process():
        asyncio.run(sign())


def test_a_key_that_was_deleted_is_unavailable_and_not_misconfigured(tmp_path: Path) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo"))
            values(await key.sign(type1(), in_time()))
            delete_objects(token, "demo")
            for _ in range(2):
                (result,) = await key.sign(type1(), in_time())
                assert isinstance(result, UnavailableError)
            import_rsa_key(token, "demo", VECTORS / "capgo-v3" / "private.pem")
            await until_it_signs(key)

    token = make_token(tmp_path, "deleted")
    import_rsa_key(token, "demo", VECTORS / "capgo-v3" / "private.pem")
    with token.in_this_process():
        asyncio.run(sign())


def test_a_pinned_fingerprint(token: SoftHsmToken) -> None:
    async def open_both() -> None:
        async with opened() as store:
            fingerprint = (await store.open_key(token.uri("demo"))).description.public_key.fingerprint
            await store.open_key(token.uri("demo"), fingerprint)
            with pytest.raises(IntegrityError, match=fingerprint) as caught:
                await store.open_key(token.uri("demo"), "0" * 64)
            assert caught.value.part == "object"

    asyncio.run(open_both())


def test_a_signature_that_does_not_verify_is_dropped(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            shim.corrupt("C_Sign", times=1, after=1)
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature", "IntegrityError", "Signature"]

    asyncio.run(sign())


def test_of_a_group_those_alone_are_dropped_that_do_not_verify(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            await key.sign(type1(), in_time())
            sessions, open_now = shim.calls("C_OpenSession"), shim.sessions[os.getpid()]
            shim.corrupt("C_Sign", times=2, after=1)
            assert kinds(await key.sign(type1(5), in_time())) == [
                "Signature",
                "IntegrityError",
                "IntegrityError",
                "Signature",
                "Signature",
            ]
            assert shim.calls("C_OpenSession") == sessions
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_OpenSession") == sessions + 1  # the session that lied was closed
            assert shim.sessions[os.getpid()] == open_now

    asyncio.run(sign())


def wake_ups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on, how many answers each wake-up of the event loop brings."""
    sent: list[int] = []
    send = Batch.send

    def count(batch: Batch, answers: list[object]) -> None:
        sent.append(len(answers))
        send(batch, answers)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "send", count)
    return sent


def test_each_signature_of_a_slow_token_is_verified_and_answered_as_it_comes(
    token: SoftHsmToken, shim: FaultShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            sent = wake_ups(monkeypatch)
            shim.delay("C_SignInit", 0.03)
            shim.corrupt("C_Sign", times=1, after=1)
            assert kinds(await key.sign(type1(3), in_time())) == ["Signature", "IntegrityError", "Signature"]
            assert sent == [1, 1, 1]

    asyncio.run(sign())


@pytest.mark.parametrize(("settings", "threads"), [({}, 3), ({"sessions": 2}, 2), ({"threads": 1}, 1)])
def test_software_is_given_no_more_threads_than_cores(
    token: SoftHsmToken, settings: dict[str, object], threads: int
) -> None:
    async def look() -> int:
        async with opened(group=10, **settings) as store:
            store.use_cores(3)
            return (await store.open_key(token.uri("demo"))).parallel_inputs

    assert asyncio.run(look()) == 10 * threads


def test_a_store_that_is_told_nothing_uses_the_cores_of_its_process(
    token: SoftHsmToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> int:
        async with opened(group=10, sessions=8) as store:
            return (await store.open_key(token.uri("demo"))).parallel_inputs

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    assert asyncio.run(look()) == 50


def test_a_hanging_module_blocks_neither_the_loop_nor_the_deadline(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            shim.hang("C_Sign")
            hanging = asyncio.create_task(key.sign(type1(), in_time()))
            await until(lambda: shim.inside == 1)  # the loop runs while the module hangs
            late = await key.sign(type1(3), time.monotonic() + 0.05)
            assert kinds(late) == ["DeadlineError"] * 3
            assert shim.inside == 1
            assert not hanging.done()
            calls = shim.calls("C_SignInit")
            shim.clear()
            assert kinds(await hanging) == ["Signature"]
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_SignInit") == calls + 1  # what was given up before it began was never begun

    asyncio.run(sign())


def test_one_hanging_call_leaves_the_other_threads_at_work(token: SoftHsmToken, shim: FaultShim) -> None:
    async def sign() -> None:
        async with opened(threads=2) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            shim.hang("C_Sign", times=1)
            hanging = asyncio.create_task(key.sign(type1(), in_time()))
            await until(lambda: shim.inside == 1)
            for _ in range(3):
                assert kinds(await key.sign(type1(20), in_time())) == ["Signature"] * 20
            shim.clear()
            assert kinds(await hanging) == ["Signature"]

    asyncio.run(sign())


def test_a_cancelled_task_begins_no_more(token: SoftHsmToken, shim: FaultShim) -> None:
    async def cancel() -> None:
        async with opened(threads=1, group=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            shim.hang("C_Sign")
            cancelled = asyncio.create_task(key.sign(type1(10), in_time()))
            await until(lambda: shim.inside == 1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            shim.clear()
            assert kinds(await key.sign(type1(), in_time())) == ["Signature"]
            assert shim.calls("C_SignInit") == 2

    asyncio.run(cancel())


def test_opening_a_key_does_not_block_the_loop_and_has_an_end(token: SoftHsmToken, shim: FaultShim) -> None:
    async def open_slowly() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened() as patient, opened(open_timeout_s=0.05) as hasty:
            shim.hang("C_FindObjectsInit", times=1)
            opening = asyncio.create_task(patient.open_key(uri))
            await until(lambda: shim.inside == 1)
            with pytest.raises(UnavailableError, match="did not answer within"):
                await hasty.open_key(uri)
            assert not opening.done()
            shim.clear()
            assert kinds(await (await opening).sign(type1(), in_time())) == ["Signature"]

    asyncio.run(open_slowly())


def test_closing_finishes_what_is_queued(token: SoftHsmToken, shim: FaultShim) -> None:
    async def close() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo", module_path=shim.path))
            shim.delay("C_Sign", 0.01)
            queued = [asyncio.create_task(key.sign(type1(2), in_time())) for _ in range(3)]
            await until(lambda: shim.inside == 1)
            await store.close()
            assert [kinds(await each) for each in queued] == [["Signature"] * 2] * 3
            (closed,) = await key.sign(type1(), in_time())
            assert isinstance(closed, UnavailableError)
            assert shim.calls("C_Finalize") == 1

    asyncio.run(close())


CLOSE_UNDER_A_CALL = """
import asyncio, logging, sys, time
from pathlib import Path
from privyseal_backends.pkcs11.store import open_store
from tests.support.shim import FaultShim
from tests.unit.pkcs11.helpers import kinds, type1

logging.basicConfig(format="%(message)s")

async def main(uri, folder, module):
    shim = FaultShim.build(Path(folder), Path(module))
    store = open_store({"close_timeout_s": 0.1, "threads": 1})
    key = await store.open_key(uri.replace("SHIM", str(shim.path)))
    shim.hang("C_Sign")
    print(kinds(await key.sign(type1(2), time.monotonic() + 0.1)))
    await store.close()
    print(shim.inside, shim.calls("C_Finalize"))

asyncio.run(main(*sys.argv[1:]))
"""


def test_closing_leaves_a_module_alone_that_has_a_call_inside(token: SoftHsmToken, tmp_path: Path) -> None:
    """In a process of its own, which then ends although the module hangs."""
    uri = token.uri("demo", module_path=Path("SHIM"))
    done = subprocess.run(
        [sys.executable, "-c", CLOSE_UNDER_A_CALL, uri, str(tmp_path), str(token.module_path)],
        env=os.environ | token.environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["['DeadlineError', 'DeadlineError']", "1 0"]
    assert "still inside" in done.stderr


def test_an_unexpected_error_does_not_kill_a_signing_thread(
    token: SoftHsmToken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError("what no test foresaw")

    async def sign() -> None:
        async with opened(threads=1) as store:
            key = await store.open_key(token.uri("demo"))
            with monkeypatch.context() as patch:
                patch.setattr("privyseal_backends.pkcs11.executor.sign", fail)
                assert kinds(await key.sign(type1(2), in_time())) == ["UnavailableError"] * 2
            assert kinds(await key.sign(type1(2), in_time())) == ["Signature"] * 2

    asyncio.run(sign())
    assert "MemoryError" in caplog.text
    assert "foresaw" not in caplog.text


def test_a_group_is_answered_by_one_wake_up(token: SoftHsmToken, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sign() -> None:
        async with opened(threads=1, group=16) as store:
            key = await store.open_key(token.uri("demo"))
            sent = wake_ups(monkeypatch)
            monkeypatch.setattr("privyseal_backends.pkcs11.executor._HOLD_S", 60)
            await asyncio.gather(*(key.sign(type1(), in_time()) for _ in range(33)))
        assert sum(sent) == 33
        assert len(sent) <= 4
        assert max(sent) == 16

    asyncio.run(sign())
