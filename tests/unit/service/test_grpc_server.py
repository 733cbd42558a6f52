"""The gRPC server by itself: all kinds of calls, their ends, and its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from privyseal_service.api.core_server import AbortError, Call, Server

SERVICE = "test.Echo"
WAIT_S = 20.0


class Echo:
    """Handlers that answer what they are asked; `begun` and `ended` say what became of one that waits for ever."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended: list[type[BaseException]] = []
        self.caught: list[str] = []
        self.deadlines_s: list[float | None] = []

    async def echo(self, body: bytes, call: Call) -> bytes:
        call.set_trailing_metadata((("left", "a"), ("right-bin", b"\0\1")))
        self.deadlines_s.append(call.deadline_s)
        return body

    async def abort(self, body: bytes, call: Call) -> bytes:
        try:
            await call.abort(grpc.StatusCode.NOT_FOUND, body.decode(), (("why", "because"),))
        except AbortError:
            self.caught.append("abort")
            raise
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
            for name in ("echo", "abort", "mumble", "fail", "wait")
        }
        methods["count"] = grpc.unary_stream_rpc_method_handler(self.count, same, same)
        methods["twice"] = grpc.stream_stream_rpc_method_handler(self.twice, same, same)
        return grpc.method_handlers_generic_handler(SERVICE, methods)


Use = Callable[[Server, Echo, grpc.aio.Channel], Awaitable[None]]


def run(use: Use) -> Echo:
    async def work() -> Echo:
        server, echo = Server([]), Echo()
        server.add_generic_rpc_handlers([echo.handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await use(server, echo, channel)
        await server.stop(WAIT_S)
        await server.stop(WAIT_S)
        return echo

    return asyncio.run(asyncio.wait_for(work(), WAIT_S))


def unary(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(f"/{SERVICE}/{method}")


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_answers_come_with_their_metadata_and_know_the_deadline() -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        calls = [unary(channel, "echo")(b"%d" % number, timeout=WAIT_S) for number in range(200)]
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(200)]
        trailing = dict(await calls[0].trailing_metadata())
        assert (trailing["left"], trailing["right-bin"]) == ("a", b"\0\1")
        now_s = time.monotonic()
        assert all(deadline_s is not None and 0 < deadline_s - now_s <= WAIT_S for deadline_s in echo.deadlines_s)
        assert await unary(channel, "echo")(b"") == b""
        assert echo.deadlines_s[-1] is None

    run(use)


def test_an_error_has_its_code_words_and_metadata_and_a_fault_tells_nothing() -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        error = await refused(unary(channel, "abort")(b"not here"))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "not here")
        assert ("why", "because") in tuple(error.trailing_metadata())
        assert echo.caught == ["abort"]
        error = await refused(unary(channel, "fail")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "the call failed")
        assert (await refused(unary(channel, "none")(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await refused(unary(channel, "mumble")(b"", timeout=WAIT_S))).code() is grpc.StatusCode.CANCELLED

    run(use)


def test_streams_in_both_directions() -> None:
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

    run(use)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_caller_that_has_gone_ends_its_handler(how: str) -> None:
    async def use(server: Server, echo: Echo, channel: grpc.aio.Channel) -> None:
        call = unary(channel, "wait")(b"", timeout=0.3 if how == "deadline" else WAIT_S)
        await echo.begun.wait()
        if how == "cancel":
            call.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call
        while not echo.ended:
            await asyncio.sleep(0.01)

    assert run(use).ended == [asyncio.CancelledError]


def test_a_stop_lets_calls_finish_and_ends_those_that_do_not() -> None:
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

    assert run(use).ended == [asyncio.CancelledError]


def test_an_address_that_is_taken_is_an_error_and_a_server_that_never_started_stops() -> None:
    async def work() -> None:
        first, second = (Server([("grpc.so_reuseport", 0)]) for _ in range(2))
        port = first.add_insecure_port("127.0.0.1:0")
        with pytest.raises(RuntimeError):
            second.add_insecure_port(f"127.0.0.1:{port}")
        await first.stop(0)
        await second.stop(0)

    asyncio.run(work())
