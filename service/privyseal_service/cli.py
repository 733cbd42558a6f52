"""The `privyseal-server` command. Commands import what they need when they run, so that help is quick.

Exit codes: 0; 1 refused, not verified or unfit input; 2 usage, a missing file or a bad configuration; 3 an unavailable
key store; of `serve` also 70, an internal error, and 75, a key store that only a new process recovers.
"""

from __future__ import annotations

import os
import sys

import click

from privyseal import __version__
from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._run import log_internal_error
from privyseal_service.commands.audit import audit
from privyseal_service.commands.check import check
from privyseal_service.commands.grants import grants
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
3 an unavailable key store, or no service; of `serve` also 70, an internal error, and 75, without workers, a key store
that only a new process recovers.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, "-V", "--version", prog_name="privyseal-server")
def cli() -> None:
    """The signing service: two RSA operations for over-the-air app bundles, with keys that stay in their key store."""


for _command in (audit, check, grants, health, key, serve):
    cli.add_command(_command)


def main() -> None:
    """Harden the process and run the command. A failure is one sentence on standard error, and an exit code."""
    from privyseal_service.system.hardening import harden  # noqa: PLC0415

    harden()
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = USAGE
    except click.ClickException as error:
        code = _fail(_sentence(error), error.code if isinstance(error, CommandError) else USAGE)
    except click.exceptions.Abort:
        code = 130
    except OSError as error:
        code = _fail(f"{error.strerror or type(error).__name__}; nothing more was done", REFUSED)
        # Without this, Python would write to standard output again at its exit, and that failure has another exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except ModuleNotFoundError as error:
        log_internal_error()
        code = _fail(
            f"the service's packages are not all installed ({error.name} is missing); install privyseal with its "
            "extra: pip install 'privyseal[server]'",
            USAGE,
        )
    except Exception as error:  # noqa: BLE001 - the trace is in the log, at debug level
        log_internal_error()
        code = _fail(f"internal error, {type(error).__name__}: {error}", REFUSED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str, code: int) -> int:
    click.echo(f"privyseal-server: {sentence}", err=True)
    return code


def _sentence(error: click.ClickException) -> str:
    text = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx:
        text = f"{' '.join(text.split()).rstrip('.')}; see `{error.ctx.command_path} --help`"
    return text
