"""The `privyseal-server` command. It imports what a command needs inside the command, so that help is quick.

Exit codes: 0; 1 refused, not verified or unfit input; 2 usage, a missing file or a bad configuration; 3 a key store
that is away; `serve` has 70 for a fault of the program and 75 for a key store that only a new process mends.
"""

from __future__ import annotations

import os
import sys

import click

from privyseal import __version__
from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._run import log_defect
from privyseal_service.commands.audit import audit
from privyseal_service.commands.check import check
from privyseal_service.commands.grants import GrantsError, grants
from privyseal_service.commands.health import health
from privyseal_service.commands.keys import key
from privyseal_service.commands.serve import serve
from privyseal_service.system.exit_codes import REFUSED, USAGE

_EPILOG = """\b
Examples:
  privyseal-server key create --config server.toml app-release > public.pem
  privyseal-server check --config server.toml
  privyseal-server serve --config server.toml

\b
Exit codes: 0 done; 1 refused, not verified, or unfit input; 2 wrong usage, a missing file, wrong configuration;
3 a key store that is away, or no service; of `serve`, 70 a fault of the program, and 75, without workers, a key store
that only a new process mends.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, "-V", "--version", prog_name="privyseal-server")
def cli() -> None:
    """The signing service: two RSA operations for over-the-air app bundles, with keys that stay in their key store."""


for _command in (audit, check, grants, health, key, serve):
    cli.add_command(_command)


def _sentence(error: click.ClickException) -> str:
    said = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx:
        said = f"{' '.join(said.split()).rstrip('.')}; see `{error.ctx.command_path} --help`"
    return said


def _missing(error: ModuleNotFoundError) -> str:
    """What is to be installed: the base is the client's alone."""
    return (
        f"the service's packages are not all installed ({error.name} is missing); install privyseal with its extra: "
        "pip install 'privyseal[server]'"
    )


def main() -> None:
    """The entry point: harden the process, run the command, and say what went wrong in one sentence."""
    from privyseal_service.system.hardening import harden  # noqa: PLC0415

    harden()
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = USAGE
    except click.ClickException as error:
        click.echo(f"privyseal-server: {_sentence(error)}", err=True)
        code = error.code if isinstance(error, (CommandError, GrantsError)) else USAGE
    except click.exceptions.Abort:
        code = 130
    except OSError as error:
        click.echo(f"privyseal-server: {error.strerror or type(error).__name__}; nothing more was done", err=True)
        # What standard output would not take is not tried again at exit, where it would become another exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = REFUSED
    except ModuleNotFoundError as error:
        log_defect()
        click.echo(f"privyseal-server: {_missing(error)}", err=True)
        code = USAGE
    except Exception as error:  # noqa: BLE001 - an operator is owed a sentence; the trace is in the log at debug level
        log_defect()
        click.echo(f"privyseal-server: a fault of the program itself, {type(error).__name__}: {error}", err=True)
        code = REFUSED
    sys.exit(code if isinstance(code, int) else 0)
