"""The gRPC server by itself, on gRPC's core and on grpc.aio: all kinds of calls, their ends, and its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from privyseal_service.api.server import Around, Call, Metadata, Server
from privyseal_service.api.server_choice import choose_server

SERVICE = "test.Echo"
WAIT_S = 20.0


class Echo:
    """Handlers that answer what they are asked; `begun` and `ended` say what became of one that waits for ever."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended: list[type[BaseException]] = []
        self.went_on = False
        self.deadlines_s: list[float | None] = []

    async def echo(self, body: bytes, call: Call) -> bytes:
        call.set_trailing_metadata((("left", "a"), ("right-bin", b"\0\1")))
        self.deadlines_s.append(call.deadline_s)
        return body

    async def abort(self, body: bytes, call: Call) -> bytes:
        await call.abort(grpc.StatusCode.NOT_FOUND, body.decode(), (("why", "because"),))
        self.went_on = True
        return body

    async def mumble(self, body: bytes, call: Call) -> bytes:
        call.set_trailing_metadata((("left", 7),))  # type: ignore[arg-type]
        return body

    async def fail(self, body: bytes, call: Call) -> bytes:
        raise ValueError("a secret")

    async def wait(self, body: bytes, call: Call) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended.append(type(error))
            raise
        return body

    async def cancel(self, body: bytes, call: Call) -> bytes:
        raise asyncio.CancelledError

    async def count(self, body: bytes, call: Call) -> AsyncIterator[bytes]:
        for number in range(int(body)):
            yield b"%d" % number

    async def twice(self, bodies: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for body in bodies:
            yield body * 2

    def handler(self) -> grpc.GenericRpcHandler:
        def same(body: bytes) -> bytes:
            return body

        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, name))
            for name in ("echo", "abort", "mumble", "fail", "wait", "cancel")
        }
        methods["count"] = grpc.unary_stream_rpc_method_handler(self.count, same, same)
        methods["twice"] = grpc.stream_stream_rpc_method_handler(self.twice, same, same)
        return grpc.method_handlers_generic_handler(SERVICE, methods)


Use = Callable[[Server, Echo, grpc.aio.Channel], Awaitable[None]]
Run = Callable[..., Awaitable[Echo]]


@pytest.fixture(params=["core", "aio"])
def make_server(request: pytest.FixtureRequest) -> Callable[..., Server]:
    def make(options: Sequence[tuple[str, int]] = (), around: Around | None = None) -> Server:
        return choose_server(request.param).make(options, around)

    return make


@pytest.fixture
def run(make_server: Callable[..., Server]) -> Run:
    async def work(use: Use, around: Around | None = None) -> Echo:
        server, echo = make_server((), around), Echo()
        server.add_generic_rpc_handlers([echo.handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(use(server, echo, channel), WAIT_S)
        await server.stop(WAIT_S)
        await server.stop(WAIT_S)
        return echo

    return work


def unary(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(f"/{SERVICE}/{method}")


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_answers_come_with_their_metadata_and_know_the_deadline(run: Run) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        calls = [unary(channel, "echo")(b"%d" % number, timeout=WAIT_S) for number in range(200)]
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(200)]
        trailing = dict(await calls[0].trailing_metadata())
        assert (trailing["left"], trailing["right-bin"]) == ("a", b"\0\1")
        now_s = time.monotonic()
        assert all(deadline_s is not None and 0 < deadline_s - now_s <= WAIT_S for deadline_s in echo.deadlines_s)
        assert await unary(channel, "echo")(b"") == b""
        assert echo.deadlines_s[-1] is None

    await run(use)


async def test_an_error_has_its_code_words_and_metadata_and_a_fault_tells_nothing(run: Run) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        error = await refused(unary(channel, "abort")(b"not here"))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "not here")
        assert ("why", "because") in tuple(error.trailing_metadata())
        assert not echo.went_on, "a handler ends with abort"
        error = await refused(unary(channel, "fail")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "the call failed")
        assert (await refused(unary(channel, "none")(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
        error = await refused(unary(channel, "mumble")(b"", timeout=WAIT_S))
        assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)

    await run(use)


async def test_streams_in_both_directions(run: Run) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        counted = [each async for each in channel.unary_stream(f"/{SERVICE}/count")(b"3")]
        assert counted == [b"0", b"1", b"2"]
        both = channel.stream_stream(f"/{SERVICE}/twice")()
        for text in (b"a", b"b"):
            await both.write(text)
            assert await both.read() == text * 2
        await both.done_writing()
        assert await both.read() is grpc.aio.EOF
        assert await both.code() is grpc.StatusCode.OK

    await run(use)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_caller_that_has_gone_ends_its_handler(run: Run, how: str) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        call = unary(channel, "wait")(b"", timeout=0.3 if how == "deadline" else WAIT_S)
        await echo.begun.wait()
        if how == "cancel":
            call.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call
        while not echo.ended:
            await asyncio.sleep(0.01)

    assert (await run(use)).ended == [asyncio.CancelledError]


async def test_a_stop_lets_calls_finish_and_ends_those_that_do_not(run: Run) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        waiting = unary(channel, "wait")(b"", timeout=WAIT_S)
        await echo.begun.wait()
        stream = channel.stream_stream(f"/{SERVICE}/twice")()
        await stream.write(b"a")
        assert await stream.read() == b"aa"
        stopping = asyncio.ensure_future(server.stop(0.5))
        await stream.write(b"b")
        assert await stream.read() == b"bb"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert (await refused(waiting)).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        await stopping
        assert (await refused(unary(channel, "echo")(b"", timeout=WAIT_S))).code() is grpc.StatusCode.UNAVAILABLE

    assert (await run(use)).ended == [asyncio.CancelledError]


async def test_a_handler_that_is_cancelled_from_inside_answers_cancelled(run: Run) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        assert (await refused(unary(channel, "cancel")(b"", timeout=WAIT_S))).code() is grpc.StatusCode.CANCELLED
        assert await unary(channel, "echo")(b"a") == b"a"

    await run(use)


async def test_the_hook_is_entered_and_left_around_each_handler(run: Run) -> None:
    seen: list[tuple[str, str, str]] = []

    @contextlib.contextmanager
    def around(method: str, headers: Metadata) -> Iterator[None]:
        trace = str(dict(headers).get("trace", ""))
        seen.append(("enter", method, trace))
        try:
            yield
        finally:
            seen.append(("leave", method, trace))

    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        await unary(channel, "echo")(b"", metadata=(("trace", "1"),))
        await refused(unary(channel, "abort")(b"", metadata=(("trace", "2"),)))
        await refused(unary(channel, "fail")(b"", metadata=(("trace", "3"),)))
        assert [each async for each in channel.unary_stream(f"/{SERVICE}/count")(b"1", metadata=(("trace", "4"),))]

    await run(use, around)
    calls = [("echo", "1"), ("abort", "2"), ("fail", "3"), ("count", "4")]
    assert seen == [(step, f"/{SERVICE}/{name}", trace) for name, trace in calls for step in ("enter", "leave")]


async def test_an_address_that_is_taken_is_an_error_and_a_server_that_never_started_stops(
    make_server: Callable[..., Server],
) -> None:
    first, second = (make_server([("grpc.so_reuseport", 0)]) for _ in range(2))
    port = first.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError):
        second.add_insecure_port(f"127.0.0.1:{port}")
    await first.stop(0)
    await second.stop(0)


@pytest.mark.parametrize(
    ("choice", "version", "server"),
    [
        ("auto", "1.80.0", "CoreServer"),
        ("auto", "1.85.1", "CoreServer"),
        ("auto", "1.79.9", "AioServer"),
        ("auto", "1.86.0", "AioServer"),
        ("auto", "2.0.0rc1", "AioServer"),
        ("core", "1.86.0", "CoreServer"),
        ("aio", "1.85.1", "AioServer"),
    ],
)
def test_the_core_serves_where_it_was_tested(choice: Any, version: str, server: str) -> None:
    chosen = choose_server(choice, version)

    assert getattr(chosen.make, "__name__", "") == server
    assert (version if choice != "aio" else "server.grpc") in chosen.reason


@pytest.mark.parametrize("choice", ["auto", "core"])
def test_a_core_that_cannot_be_imported_is_replaced_by_grpc_aio(choice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("grpc._cython.cygrpc.SendStatusFromServerOperation")
    monkeypatch.delitem(sys.modules, "privyseal_service.api.core_server", raising=False)
    monkeypatch.delattr("privyseal_service.api.core_server", raising=False)

    chosen = choose_server(choice, "1.85.1")

    assert getattr(chosen.make, "__name__", "") == "AioServer"
    assert "SendStatusFromServerOperation" in chosen.reason
