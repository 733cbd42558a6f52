"""The error with which a command fails."""

from __future__ import annotations

import click


class CommandError(click.ClickException):
    """One sentence for standard error, and the exit code in `code`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
