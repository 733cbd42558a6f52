"""Modules: initialised for threads, once a process, never finalised under a call, never used after a fork."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.locate import init_string, locate
from privyseal_backends.pkcs11.module_registry import MODULES
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken
from tests.unit.pkcs11.helpers import in_time, opened, type1, values

CKF_OS_LOCKING_OK = 2


async def sign_much(uri: str, **settings: object) -> int:
    """Open a key and sign with eight tasks at a time; the number of signatures."""
    async with opened(**settings) as store:
        key = await store.open_key(uri)
        signed = await asyncio.gather(*(key.sign(type1(8), in_time()) for _ in range(8)))
        return sum(len(values(each)) for each in signed)


def test_it_is_initialised_for_threads_and_finalised_once(token: SoftHsmToken, shim: FaultShim) -> None:
    assert asyncio.run(sign_much(token.uri("demo", module_path=shim.path), threads=4)) == 64
    assert shim.initialize_flags == CKF_OS_LOCKING_OK
    assert (shim.calls("C_Initialize"), shim.calls("C_Finalize")) == (1, 1)
    assert shim.calls("C_OpenSession") == shim.calls("C_CloseSession")


def test_it_can_be_initialised_again(token: SoftHsmToken, shim: FaultShim) -> None:
    for _ in range(3):
        assert asyncio.run(sign_much(token.uri("demo", module_path=shim.path))) == 64
    assert (shim.calls("C_Initialize"), shim.calls("C_Finalize")) == (3, 3)


def test_two_stores_share_one_state_and_one_login(token: SoftHsmToken, shim: FaultShim) -> None:
    async def both() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened() as first, opened() as second:
            keys = await asyncio.gather(first.open_key(uri), second.open_key(uri))
            assert (shim.calls("C_Initialize"), shim.calls("C_Login")) == (1, 1)
            await first.close()
            assert shim.calls("C_Finalize") == 0
            assert len(values(await keys[1].sign(type1(3), in_time()))) == 3
        assert shim.calls("C_Finalize") == 1

    asyncio.run(both())


def test_a_module_that_cannot_lock_has_one_call_inside(token: SoftHsmToken, shim: FaultShim) -> None:
    shim.fail("C_Initialize", Ckr.CANT_LOCK, times=1)
    assert asyncio.run(sign_much(token.uri("demo", module_path=shim.path), threads=4)) == 64
    assert (shim.calls("C_Initialize"), shim.initialize_flags, shim.most_inside) == (2, 0, 1)


def test_a_list_of_its_own_at_each_call_takes_the_stock_path(token: SoftHsmToken, shim: FaultShim) -> None:
    shim.give_private_lists()
    for _ in range(2):
        assert asyncio.run(sign_much(token.uri("demo", module_path=shim.path), threads=2)) == 64
    assert shim.initialize_flags is None
    assert (shim.calls("C_Initialize"), shim.calls("C_Finalize")) == (2, 2)


def test_the_init_string_is_passed(token: SoftHsmToken, shim: FaultShim) -> None:
    text = "configdir='sql:/x' flags= "
    uri = token.uri("demo", module_path=shim.path)
    # SoftHSM refuses any pReserved, as the specification says that a module should.
    with pytest.raises(OperatorError, match="CKR_ARGUMENTS_BAD"):
        asyncio.run(sign_much(uri, init_strings={str(shim.path): text}))
    assert shim.reserved == text


def test_two_init_strings_for_one_module_are_refused(token: SoftHsmToken, shim: FaultShim) -> None:
    async def both() -> None:
        uri = token.uri("demo", module_path=shim.path)
        async with opened() as first, opened(init_strings={str(shim.path): "other"}) as second:
            await first.open_key(uri)
            with pytest.raises(OperatorError, match="another init string"):
                await second.open_key(uri)

    asyncio.run(both())


def test_a_module_of_p11_kit_takes_no_init_string(token: SoftHsmToken, shim: FaultShim) -> None:
    shim.give_private_lists()
    with pytest.raises(OperatorError, match="no init string"):
        asyncio.run(sign_much(token.uri("demo", module_path=shim.path), init_strings={str(shim.path): "x"}))


@pytest.mark.parametrize(
    ("code", "times", "error", "attempts"),
    [
        (Ckr.CRYPTOKI_ALREADY_INITIALIZED, -1, OperatorError, 1),
        (Ckr.ARGUMENTS_BAD, -1, OperatorError, 1),
        (Ckr.DEVICE_ERROR, -1, UnavailableError, 4),
        (Ckr.GENERAL_ERROR, -1, UnavailableError, 4),
        (Ckr.GENERAL_ERROR, 2, None, 3),
    ],
)
def test_a_module_that_does_not_initialise(
    token: SoftHsmToken,
    shim: FaultShim,
    code: int,
    times: int,
    error: type[BackendError] | None,
    attempts: int,
) -> None:
    shim.fail("C_Initialize", code, times=times)
    uri = token.uri("demo", module_path=shim.path)
    if error is None:
        assert asyncio.run(sign_much(uri)) == 64
    else:
        with pytest.raises(error) as caught:
            asyncio.run(sign_much(uri))
        assert caught.value.part == "module"
    assert shim.calls("C_Initialize") == attempts


def test_a_module_that_gives_no_information_is_finalised_again(token: SoftHsmToken, shim: FaultShim) -> None:
    shim.fail("C_GetInfo", Ckr.GENERAL_ERROR, times=1)
    assert asyncio.run(sign_much(token.uri("demo", module_path=shim.path))) == 64
    assert (shim.calls("C_Initialize"), shim.calls("C_Finalize")) == (2, 2)


def test_a_module_is_not_finalised_while_a_call_is_inside(shim: FaultShim) -> None:
    module = MODULES.acquire(str(shim.path), None)
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with module.call():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    assert not module.release(0.01)
    assert shim.calls("C_Finalize") == 0
    leave.set()
    thread.join()
    MODULES.acquire(str(shim.path), None)
    assert module.release(10)
    assert shim.calls("C_Finalize") == 1
    with pytest.raises(UnavailableError), module.call():
        pytest.fail("a call went into a closed module")


FORK = """
import asyncio, os, sys
from privyseal_backends.interface import BackendError
from privyseal_backends.pkcs11.store import open_store
from tests.unit.pkcs11.helpers import in_time, type1

uri = sys.argv[1]

async def start():
    store = open_store({})
    return store, await store.open_key(uri)

async def child(store, key):
    (result,) = await key.sign(type1(), in_time())
    print(type(result).__name__, result)
    try:
        await store.open_key(uri)
    except BackendError as error:
        print(type(error).__name__, error)
    await store.close()

async def parent(store, key):
    (result,) = await key.sign(type1(), in_time())
    print(type(result).__name__)
    await store.close()

loop = asyncio.new_event_loop()
store, key = loop.run_until_complete(start())
pid = os.fork()
if pid == 0:
    asyncio.run(child(store, key))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
loop.run_until_complete(parent(store, key))
loop.close()
"""


def test_a_forked_process_is_told_to_start_by_spawn(token: SoftHsmToken) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, token.uri("demo")],
        env=os.environ | token.environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    signed, open_again, parent = done.stdout.splitlines()
    for line in (signed, open_again):
        assert line.startswith("OperatorError module: ")
        assert "spawn or exec" in line
    assert parent == "Signature"


def test_a_file_that_is_no_module(tmp_path: Path, token: SoftHsmToken) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    libm = next(
        path
        for path in map(Path, ("/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", sys.executable))
        if path.exists()
    )
    for path, word in (
        (tmp_path / "none.so", "no module"),
        (text, "cannot load"),
        (tmp_path, "folder"),
        (libm, "module"),
    ):
        with pytest.raises(OperatorError, match=word) as caught:
            asyncio.run(sign_much(token.uri("demo", module_path=path)))
        assert caught.value.part == "module"
        assert caught.value.remedy


def test_a_module_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "libsnake.so").touch()
    (tmp_path / "oil.so").touch()
    assert locate(KeyAddress(module_path=str(tmp_path), module_name="snake")) == str(tmp_path / "libsnake.so")
    assert locate(KeyAddress(module_path=str(tmp_path), module_name="oil")) == str(tmp_path / "oil.so")
    assert locate(KeyAddress(module_path=str(tmp_path / "oil.so"))) == str(tmp_path / "oil.so")
    with pytest.raises(OperatorError, match="no module named python"):
        locate(KeyAddress(module_path=str(tmp_path), module_name="python"))
    with pytest.raises(OperatorError, match="no module named snake-oil-module"):
        locate(KeyAddress(module_name="snake-oil-module"))


def test_init_strings_are_by_file(tmp_path: Path) -> None:
    module, link = tmp_path / "m.so", tmp_path / "link.so"
    module.touch()
    link.symlink_to(module)
    assert init_string(str(module), {str(link): "text"}) == "text"
    assert init_string(str(module), {str(tmp_path / "other.so"): "text"}) is None
