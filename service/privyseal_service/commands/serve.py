"""`privyseal-server serve`: run the service until a signal ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from privyseal_service.commands._options import config_option
from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, RESTART_REQUIRED, USAGE

if TYPE_CHECKING:
    from privyseal_service.audit.sequencer_thread import RunningSequencer
    from privyseal_service.config.root import Config
from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._run import load_or_exit, log_defect, run_async


@click.command(short_help="Serve until SIGTERM or SIGINT.")
@config_option
def serve(config_file: Path) -> None:
    """Serve until SIGTERM or SIGINT, by worker processes of its own (service.workers, one for each core).

    Prints `listening AUTH ADDRESS` on standard output for each listener once it accepts calls; the log goes to
    standard error. Exits with 1 when a key cannot serve as configured or the audit trail does not hold, 2 for a
    configuration, a certificate, an address or an audit folder that cannot be used, 3 when the store of a required key
    is away, 70 for a fault of the program, and, without workers, 75 when a key store was lost to the process: start it
    again after these three (docs/recovery.md).

    \b
    Example:
      privyseal-server serve --config /etc/privyseal/server.toml
    """  # noqa: D301 - click's own mark
    config = load_or_exit(config_file)
    from privyseal_service.audit.sequencer_thread import sequencing  # noqa: PLC0415
    from privyseal_service.config.loading import load_config  # noqa: PLC0415
    from privyseal_service.runtime.start_errors import start_error  # noqa: PLC0415
    from privyseal_service.runtime.supervisor import supervise  # noqa: PLC0415
    from privyseal_service.runtime.worker_config import worker_count  # noqa: PLC0415
    from privyseal_service.system.exit_codes import StartError  # noqa: PLC0415
    from privyseal_service.system.hardening import configure_grpc, limit_malloc_arenas  # noqa: PLC0415
    from privyseal_service.telemetry import logs  # noqa: PLC0415

    configure_grpc()

    if config.audit is None:
        raise CommandError(
            f"{config_file} has no [audit] table, and nothing is answered that is not on record; add one "
            "(`privyseal-server audit keygen` makes its key), or set enabled = false in it for a first try",
            USAGE,
        )
    limit_malloc_arenas()
    logs.configure(config.log)
    announce = _announce if config.audit.enabled else _announce_unrecorded
    try:
        with sequencing(config.audit) as sequencer:
            if worker_count(config):
                run_async(
                    supervise(config, announce=announce, load=lambda: load_config(config_file), sequencer=sequencer)
                )
                code = 0
            else:
                code = _serve_alone(config, config_file, announce, sequencer)
    except StartError as error:
        raise CommandError(str(error), error.code) from None
    except OSError:
        raise  # of standard output, which whoever starts the service has to mend; see `main`
    except Exception as error:  # noqa: BLE001 - whatever runs the service is to start it again
        log_defect()
        raise CommandError(str(start_error(error)), INTERNAL_ERROR) from None
    if code == RESTART_REQUIRED:
        from privyseal_service.system.hardening import exit_immediately  # noqa: PLC0415

        exit_immediately(code)


def _serve_alone(
    config: Config, config_file: Path, announce: Callable[[str], None], sequencer: RunningSequencer | None
) -> int:
    from privyseal_service.api.tls import TlsError  # noqa: PLC0415
    from privyseal_service.audit.errors import AuditUnavailableError  # noqa: PLC0415
    from privyseal_service.config.loading import load_config  # noqa: PLC0415
    from privyseal_service.identity.jwks_sources import SourceError  # noqa: PLC0415
    from privyseal_service.keys.keyring import KeyringError  # noqa: PLC0415
    from privyseal_service.limits.limiter import LimitsError  # noqa: PLC0415
    from privyseal_service.runtime.single_process import serve as serve_alone  # noqa: PLC0415
    from privyseal_service.runtime.start_errors import start_error  # noqa: PLC0415
    from privyseal_service.system.hardening import run_service  # noqa: PLC0415
    from privyseal_service.system.sockets import ListenError  # noqa: PLC0415

    try:
        serving = serve_alone(config, announce=announce, load=lambda: load_config(config_file), sequencer=sequencer)
        return run_service(serving)
    except (AuditUnavailableError, KeyringError, TlsError, ListenError, SourceError, LimitsError) as error:
        raise start_error(error) from None


def _announce(line: str) -> None:
    from privyseal_service.system.exit_codes import StartError  # noqa: PLC0415

    try:
        click.echo(line)
        sys.stdout.flush()
    except OSError as error:  # whoever waits for the address would wait for ever
        raise StartError(f"{error.strerror}; nothing more was done", REFUSED) from None


def _announce_unrecorded(line: str) -> None:
    import logging  # noqa: PLC0415

    logging.getLogger(__name__).warning(
        "THERE IS NO AUDIT TRAIL: what is signed is on record in this log alone, if anybody keeps it; use it for "
        "development alone"
    )
    _announce(line)
