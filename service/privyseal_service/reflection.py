"""Server reflection (grpc.reflection.v1alpha), so that an operator's tools learn the API from the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from grpc_reflection.v1alpha.reflection import aio


class Reflection(aio.ReflectionServicer):
    """The stock servicer, whose streams end when the service stops: peers keep them open as long as they like."""

    def __init__(self, services: list[str]) -> None:
        super().__init__(services)
        self._streams: set[asyncio.Task[Any]] = set()

    async def ServerReflectionInfo(  # type: ignore[override] # noqa: N802 - the stock stubs miss that it is a generator
        self, request_iterator: AsyncIterable[Any], unused_context: Any
    ) -> AsyncIterator[Any]:
        """Answer each question of a stream."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a handler runs in a task")
        self._streams.add(task)
        try:
            stock: Any = super().ServerReflectionInfo(request_iterator, unused_context)
            async for response in stock:
                yield response
        finally:
            self._streams.discard(task)

    def stop(self) -> None:
        """End every stream."""
        for task in self._streams:
            task.cancel()
