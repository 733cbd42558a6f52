"""Pipes between processes, on an event loop."""

from __future__ import annotations

import asyncio
import os


class PipeWriter(asyncio.Protocol):
    """The writing end of a pipe. What is sent after the reader is gone is dropped, without an error."""

    def __init__(self) -> None:
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport

    @classmethod
    async def open(cls, descriptor: int) -> PipeWriter:
        """Open a pipe by its descriptor, which the writer closes."""
        pipe = os.fdopen(descriptor, "wb", buffering=0)
        transport, writer = await asyncio.get_running_loop().connect_write_pipe(cls, pipe)
        writer._transport = transport  # noqa: SLF001 - its own class
        return writer

    def send(self, data: bytes) -> None:
        """Queue the data; it is written as soon as the pipe has room."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Write what is queued, then close."""
        self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until all is written, or the reader is gone."""
        await self._closed

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Handle the end of the pipe."""
        if not self._closed.done():
            self._closed.set_result(None)


async def open_pipe_reader(descriptor: int, max_line_bytes: int) -> asyncio.StreamReader:
    """Return a reader of a pipe by its descriptor, which it closes; lines have at most `max_line_bytes`."""
    reader = asyncio.StreamReader(limit=max_line_bytes)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader
