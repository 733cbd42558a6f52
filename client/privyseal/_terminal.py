"""What a person sees: words on stderr, results on stdout, colour and progress only where they are of use."""

from __future__ import annotations

import errno
import os
import sys
import time

import click

PROGRESS_FROM_S = 0.3
"""Work that is done sooner than this shows no progress."""
PROGRESS_EVERY_S = 0.1


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _coloured() -> bool:
    # https://no-color.org: set and not empty, whatever it says.
    return _is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _styled(word: str, colour: str) -> str:
    return click.style(word, fg=colour, bold=True) if _coloured() else word


def complain(sentence: str, *, request_id: str = "") -> None:
    """Say what is wrong, in one line on stderr."""
    known_as = f" (request {request_id})" if request_id else ""
    click.echo(f"{_styled('Error:', 'red')} {_one_line(sentence)}{known_as}", err=True)


def warn(sentence: str) -> None:
    """Say what may be wrong, in one line on stderr."""
    click.echo(f"{_styled('Warning:', 'yellow')} {_one_line(sentence)}", err=True)


def say(sentence: str) -> None:
    """Say something to a person, on stderr."""
    click.echo(_one_line(sentence), err=True)


def result(text: str) -> None:
    """Write a result to stdout, whatever the terminal's encoding, and flush it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")
    stream = sys.stdout.buffer
    stream.write(text.encode("utf-8", "surrogateescape") + b"\n")
    stream.flush()


def _one_line(sentence: str) -> str:
    return "".join(c if c.isprintable() else " " for c in sentence)


class ProgressLine:
    """A line on a terminal's stderr that says how far a long work is. A context manager; called with the bytes done."""

    def __init__(self, verb: str, total_bytes: int, *, wanted: bool) -> None:
        self._verb = verb
        self._total_bytes = max(total_bytes, 1)
        self._wanted = wanted and _is_terminal()
        self._next_s = time.monotonic() + PROGRESS_FROM_S
        self._shown = False

    def __call__(self, done_bytes: int) -> None:
        now_s = time.monotonic()
        if self._wanted and now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_EVERY_S
            self._shown = True
            percent = min(100, 100 * done_bytes // self._total_bytes)
            sys.stderr.write(f"\r{self._verb} {percent:3d} %")
            sys.stderr.flush()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._wanted = False
            sys.stderr.write("\r" + " " * (len(self._verb) + len(" 100 %")) + "\r")
            sys.stderr.flush()
