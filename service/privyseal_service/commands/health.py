"""`privyseal-server health`: the state of the running service."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._options import json_option
from privyseal_service.system.exit_codes import REFUSED, UNAVAILABLE, USAGE


@click.command(short_help="Report the state of the running service.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's configuration, for its server.state_folder. The rest of it may be wrong.",
)
@click.option("--state-folder", metavar="DIR", type=click.Path(path_type=Path), help="The state folder itself.")
@json_option
def health(config_file: Path | None, state_folder: Path | None, *, as_json: bool) -> None:
    """Report the state of the running service: its workers, its keys, and each problem in a sentence.

    Asks the service on this machine, as the service's own user or as root. Exits with 0 when it is ready and has no
    problem, 1 when it is not ready or has one, 3 when no service answers.

    \b
    Example:
      privyseal-server health --config /etc/privyseal/server.toml
    """  # noqa: D301 - click's own mark
    from privyseal_service.config.errors import ConfigError  # noqa: PLC0415
    from privyseal_service.config.loading import state_folder_of  # noqa: PLC0415
    from privyseal_service.telemetry import status_socket  # noqa: PLC0415

    if (config_file is None) == (state_folder is None):
        raise CommandError("name the service with either --config FILE or --state-folder DIR", USAGE)
    try:
        folder = state_folder or state_folder_of(config_file or Path())
        detail = status_socket.read_status(folder)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None
    except status_socket.StatusError as error:
        raise CommandError(str(error), UNAVAILABLE) from None
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(detail, indent=2))
    else:
        click.echo("\n".join(status_socket.format_lines(detail)))
    if not detail["ready"] or status_socket.active_issues(detail):
        sys.exit(REFUSED)
