"""The error of a command: one sentence and an exit code."""

from __future__ import annotations

import click


class CommandError(click.ClickException):
    """One sentence for standard error, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.code = exit_code
