"""`privyseal-server serve`: run the service until a signal stops it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._options import config_option
from privyseal_service.commands._run import load_or_fail, log_internal_error, run_async
from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, RESTART_REQUIRED, USAGE


@click.command(short_help="Serve until SIGTERM or SIGINT.")
@config_option
def serve(config_file: Path) -> None:
    """Serve until SIGTERM or SIGINT, with worker processes of its own (server.workers, by default one for each core).

    Prints `listening AUTH ADDRESS` on standard output for each listener when it accepts calls; the log goes to
    standard error. Exits with 1 when a key cannot serve as configured or the audit trail fails verification, 2 when the
    configuration, a certificate, an address or the audit folder cannot be used, 3 when the key store of a required key
    is unavailable, 70 after an internal error, and, without workers, 75 when the process lost a key store. After 3, 70
    and 75, start it again (docs/recovery.md).

    \b
    Example:
      privyseal-server serve --config /etc/privyseal/server.toml
    """  # noqa: D301 - click's own mark
    config = load_or_fail(config_file)
    from privyseal_service.audit.sequencer_thread import sequencing  # noqa: PLC0415
    from privyseal_service.config.loading import load_config  # noqa: PLC0415
    from privyseal_service.runtime.start_errors import start_error  # noqa: PLC0415
    from privyseal_service.runtime.supervisor import supervise  # noqa: PLC0415
    from privyseal_service.runtime.worker_config import worker_count  # noqa: PLC0415
    from privyseal_service.system.hardening import (  # noqa: PLC0415
        configure_grpc,
        exit_immediately,
        limit_malloc_arenas,
        run_service,
    )
    from privyseal_service.telemetry import logs  # noqa: PLC0415

    configure_grpc()
    if config.audit is None:
        raise CommandError(
            f"{config_file} has no [audit] table, and the service answers no call that it does not record; add the "
            "table (`privyseal-server audit keygen` makes its key), or set enabled = false in it for a first try",
            USAGE,
        )
    limit_malloc_arenas()
    logs.configure(config.log)
    announce = _announce if config.audit.enabled else _announce_unrecorded
    code = 0
    try:
        with sequencing(config.audit) as sequencer:
            if worker_count(config):
                run_async(
                    supervise(config, announce=announce, load=lambda: load_config(config_file), sequencer=sequencer)
                )
            else:
                from privyseal_service.runtime.single_process import serve as serve_in_this_process  # noqa: PLC0415

                code = run_service(
                    serve_in_this_process(
                        config, announce=announce, load=lambda: load_config(config_file), sequencer=sequencer
                    )
                )
    except OSError:
        raise  # standard output failed; `main` reports it
    except Exception as error:  # noqa: BLE001 - every failure becomes a sentence and an exit code
        failure = start_error(error)
        if failure.code == INTERNAL_ERROR:
            log_internal_error()
        raise CommandError(str(failure), failure.code) from None
    if code == RESTART_REQUIRED:
        exit_immediately(code)


def _announce(line: str) -> None:
    from privyseal_service.system.exit_codes import StartError  # noqa: PLC0415

    try:
        click.echo(line)
        sys.stdout.flush()
    except OSError as error:  # a program that waits for the address would wait without end
        raise StartError(f"{error.strerror}; nothing more was done", REFUSED) from None


def _announce_unrecorded(line: str) -> None:
    import logging  # noqa: PLC0415

    logging.getLogger(__name__).warning(
        "THERE IS NO AUDIT TRAIL: signatures are recorded only in this log, where somebody keeps it; use this for "
        "development only"
    )
    _announce(line)
