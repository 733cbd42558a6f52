"""The `privyseal-server` command. It imports what a command needs inside the command, so that help is quick.

Exit codes: 0; 1 refused, not verified or unfit input; 2 usage, a missing file or a bad configuration; 3 a key store
that is away.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from privyseal import __version__

if TYPE_CHECKING:
    from privyseal_service.config import Config

REFUSED, USAGE, AWAY = 1, 2, 3


class CommandError(click.ClickException):
    """One sentence for standard error, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.code = exit_code


_config_option = click.option(
    "--config",
    "config_file",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's configuration, TOML.",
)


def _load(file: Path) -> Config:
    from privyseal_service.config import ConfigError, load_config  # noqa: PLC0415

    try:
        return load_config(file)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="privyseal-server")
def cli() -> None:
    """The signing service: two RSA operations for over-the-air app bundles, with keys that stay in their key store."""


@cli.command()
@_config_option
def serve(config_file: Path) -> None:
    r"""Serve until SIGTERM or SIGINT.

    Prints `listening AUTH ADDRESS` on standard output for each listener once it accepts calls; the log goes to
    standard error.

    \b
    Example: privyseal-server serve --config /etc/privyseal/privyseal.toml
    """
    import asyncio  # noqa: PLC0415

    config = _load(config_file)
    from privyseal_service import logs, server  # noqa: PLC0415
    from privyseal_service.keyring import KeyringError, may_heal  # noqa: PLC0415
    from privyseal_service.tls import TlsError  # noqa: PLC0415

    logs.set_up(config.log)
    try:
        asyncio.run(server.serve(config, announce=_announce))
    except KeyringError as error:
        raise CommandError(str(error), AWAY if may_heal(error.cause) else REFUSED) from None
    except (TlsError, server.ListenError) as error:
        raise CommandError(str(error), USAGE) from None


def _announce(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def main() -> None:
    """The entry point: harden the process, run the command, and say what went wrong in one sentence."""
    from privyseal_service.process import harden  # noqa: PLC0415

    harden()
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"privyseal-server: {error.format_message()}", err=True)
        code = error.code if isinstance(error, CommandError) else USAGE
    except click.exceptions.Abort:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
