"""Server reflection (grpc.reflection.v1alpha), by which an operator's tools read the API from the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from grpc_reflection.v1alpha.reflection import aio


class Reflection(aio.ReflectionServicer):
    """The stock servicer, with streams that end when the service stops: peers may keep them open for any time."""

    def __init__(self, services: list[str]) -> None:
        super().__init__(services)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        self._stopping.set()

    async def ServerReflectionInfo(  # type: ignore[override] # noqa: N802 - the stock stubs miss that it is a generator
        self, request_iterator: AsyncIterable[Any], unused_context: Any
    ) -> AsyncIterator[Any]:
        """Answer each request of a stream."""
        answers: Any = super().ServerReflectionInfo(self._until_stopped(request_iterator), unused_context)
        async for answer in answers:
            yield answer

    async def _until_stopped(self, questions: AsyncIterable[Any]) -> AsyncIterator[Any]:
        """Yield the requests until they end or the service stops: a cancelled handler would leave its call open."""
        coming = questions.__aiter__()
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                question = asyncio.ensure_future(coming.__anext__())
                await asyncio.wait((question, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not question.done():
                    question.cancel()
                    return
                try:
                    yield question.result()
                except StopAsyncIteration:
                    return
        finally:
            stopping.cancel()
