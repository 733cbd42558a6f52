"""Output for a person: messages and progress on stderr, results on stdout, colour only on a terminal."""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import Any

import click

PROGRESS_FROM_S = 0.3
"""Work that takes less time shows no progress."""


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _coloured() -> bool:
    # https://no-color.org: set and not empty, whatever its value.
    return _is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _styled(word: str, colour: str) -> str:
    return click.style(word, fg=colour, bold=True) if _coloured() else word


def complain(sentence: str, *, request_id: str = "") -> None:
    """Print an error, in one line on stderr."""
    known_as = f" (request {request_id})" if request_id else ""
    click.echo(f"{_styled('Error:', 'red')} {_one_line(sentence)}{known_as}", err=True)


def warn(sentence: str) -> None:
    """Print a warning, in one line on stderr."""
    click.echo(f"{_styled('Warning:', 'yellow')} {_one_line(sentence)}", err=True)


def say(sentence: str) -> None:
    """Print a message, in one line on stderr."""
    click.echo(_one_line(sentence), err=True)


def result(text: str) -> None:
    """Write a result to stdout in UTF-8, whatever the terminal's encoding, and flush it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")
    stream = sys.stdout.buffer
    stream.write(text.encode("utf-8", "surrogateescape") + b"\n")
    stream.flush()


def _one_line(sentence: str) -> str:
    return "".join(c if c.isprintable() else " " for c in sentence)


class Progress:
    """A progress bar on a terminal's stderr for work that takes long. A context manager; call it with the bytes done.

    `finish` ends it, so that a result does not begin on its line.
    """

    def __init__(self, label: str, total_bytes: int, *, wanted: bool) -> None:
        self._label = label
        self._total_bytes = max(total_bytes, 1)
        self._wanted = wanted and _is_terminal()
        self._from_s = time.monotonic() + PROGRESS_FROM_S
        self._bar: Any = None  # click exports no type for it

    def __call__(self, done_bytes: int) -> None:
        if self._bar is None and self._wanted and time.monotonic() >= self._from_s:
            self._bar = click.progressbar(
                length=self._total_bytes, label=self._label, file=sys.stderr, show_eta=False, width=30
            )
            self._bar.__enter__()
        if self._bar is not None:
            self._bar.update(min(done_bytes, self._total_bytes) - self._bar.pos)

    def finish(self) -> None:
        """End the bar's line, and show no other."""
        bar, self._bar, self._wanted = self._bar, None, False
        if bar is not None:
            bar.__exit__(None, None, None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
