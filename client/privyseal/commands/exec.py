"""`privyseal exec`: the command line. What it does is in run.py, imported when it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal.commands._connection import connection_options, key_option, open_client, settings_from

if TYPE_CHECKING:
    from privyseal._client import Client

OWN_FAILURE = 125
"""The exit code of what goes wrong here and not in the command, as env has it."""

_EPILOG = """\b
Examples:
  privyseal exec -- npx @capgo/cli bundle upload --delta
  privyseal exec --key my-app --strict -- npx @capgo/cli bundle encrypt app.zip "$CHECKSUM" --json
  privyseal exec -- sh -c 'npx @capgo/cli bundle upload --key-v2 "$PRIVYSEAL_PLACEHOLDER_KEY"'
  privyseal exec --app apps/mobile -- npm run release

\b
Exit codes: the command's own; 1 also when it succeeded without the signature that it owed; 125 this command failed
before it ran COMMAND; 126 COMMAND cannot be run; 127 there is no such COMMAND.
"""


class _Command(click.Command):
    """A command whose own failures end with 125, wrong usage among them."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            _tell(f"{error.format_message().rstrip('.')}; see `privyseal exec --help`")
            raise click.exceptions.Exit(OWN_FAILURE) from None


def _tell(message: str) -> None:
    click.echo(f"privyseal exec: {message}", err=True)


@click.command(
    "exec",
    short_help="Run the unmodified Capgo CLI with the key at the service.",
    cls=_Command,
    epilog=_EPILOG,
    options_metavar="[OPTIONS] --",
    context_settings={"allow_interspersed_args": False},
)
@key_option
@connection_options
@click.option("--app", "folder", metavar="FOLDER", default=".", help="The app's folder.  [default: the working folder]")
@click.option("--strict", is_flag=True, help="Fail where there would be a warning.")
@click.option(
    "--allow-none", is_flag=True, help="No signature is no error, as with `bundle upload --version-exists-ok`."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(
    command: tuple[str, ...],
    *,
    key: str | None,
    folder: str,
    strict: bool,
    allow_none: bool,
    timeout_s: float,
    **connection: Any,
) -> int:
    """Run COMMAND, which ends in node, with the signing key at the service.

    The Capgo CLI runs as it is, and finds a placeholder where it looks for its private key. Its RSA operations are
    done by the signing service, through an agent that lives as long as the command. No private key is on this machine.
    """
    from privyseal import ci  # noqa: PLC0415 - help and version need none of it
    from privyseal.errors import PrivysealError  # noqa: PLC0415
    from privyseal.exec.run import Options, execute  # noqa: PLC0415

    def connect(app_id: str, bundle_version: str) -> Client:
        said = {"app_id": app_id, "bundle_version": bundle_version}
        fits = {name: text for name, text in said.items() if len(text) <= ci.FIELD_CHARACTERS and text.isprintable()}
        context = ci.with_flags(ci.context_from(os.environ), **fits)
        return open_client(settings, timeout_s, context)

    try:
        settings = settings_from(connection, key=key)
        settings.require_connection()
        options = Options(Path(folder), strict=strict, allow_none=allow_none, timeout_s=timeout_s)
        return execute(command, options, os.environ, connect)
    except PrivysealError as error:
        _tell(str(error))
    except OSError as error:
        _tell(f"{error.filename or 'the signing agent'}: {error.strerror or error}")
    except Exception as error:  # a defect is an own failure too, and not the command's
        if os.environ.get("PRIVYSEAL_DEBUG"):
            raise
        _tell(f"unexpected {type(error).__name__}; run it again with PRIVYSEAL_DEBUG=1 to see where")
    return OWN_FAILURE
