"""Brotli, from the package of that name, which the extra `delta` brings."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from privyseal.errors import ConfigurationError


class Compressor(Protocol):
    """A stream being compressed."""

    def process(self, data: bytes, /) -> bytes:
        """The next bytes of the stream, for `data`."""

    def finish(self) -> bytes:
        """The last bytes of the stream."""


class Decompressor(Protocol):
    """A stream being decompressed."""

    def process(self, data: bytes, /, output_buffer_limit: int) -> bytes:
        """The next of what comes out, not much more than `output_buffer_limit` bytes; more may be left inside. While
        `can_accept_more_data()` is false, pass no more data."""

    def can_accept_more_data(self) -> bool:
        """Whether the stream takes more data."""

    def is_finished(self) -> bool:
        """Whether the stream has ended."""


class Brotli(Protocol):
    """What is used of the package, which has no types of its own."""

    error: type[Exception]

    def Compressor(self, *, quality: int, lgwin: int) -> Compressor:  # noqa: N802 - the package's name
        """A new stream."""

    def Decompressor(self) -> Decompressor:  # noqa: N802
        """A new stream."""


def load() -> Brotli:
    """The package. Raises ConfigurationError where it is not installed."""
    try:
        return cast("Brotli", importlib.import_module("brotli"))
    except ImportError:
        raise ConfigurationError(
            "a delta needs the package brotli, which is not installed",
            remedy="install privyseal with its extra: pip install 'privyseal[delta]'",
        ) from None
