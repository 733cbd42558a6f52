"""The `privyseal-server` command. It imports what a command needs inside the command, so that help is quick.

Exit codes: 0; 1 refused, not verified or unfit input; 2 usage, a missing file or a bad configuration; 3 a key store
that is away; `serve` has 70 for a fault of the program and 75 for a key store that only a new process mends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privyseal import __version__
from privyseal_service.audit.cli import audit
from privyseal_service.exits import AWAY, DEFECT, LOST, REFUSED, USAGE
from privyseal_service.grants_cli import GrantsError, grants
from privyseal_service.options import config_option

if TYPE_CHECKING:
    from privyseal_backends.interface import KeyDescription
    from privyseal_service.audit.running import RunningSequencer
    from privyseal_service.config import Config
    from privyseal_service.key_commands import Target

_T = TypeVar("_T")


class CommandError(click.ClickException):
    """One sentence for standard error, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.code = exit_code


_key_options = (
    click.argument("name", required=False),
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The service's configuration, which has a key called NAME.",
    ),
    click.option("--uri", metavar="URI", help="The key's URI, in place of --config and NAME."),
    click.option(
        "--purpose",
        type=click.Choice(["capgo", "signatures", "decryption"]),
        help="What the key is for, and that alone. Follows from its schemes with --config, else capgo.",
    ),
)


def _key_target_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_key_options):
        command = option(command)
    return command


def _load(file: Path) -> Config:
    from privyseal_service.config import ConfigError, load_config  # noqa: PLC0415

    try:
        return load_config(file)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None


_EPILOG = """\b
Examples:
  privyseal-server key create --config privyseal.toml app-release > public.pem
  privyseal-server check --config privyseal.toml
  privyseal-server serve --config privyseal.toml

\b
Exit codes: 0 done; 1 refused, not verified, or unfit input; 2 wrong usage, a missing file, wrong configuration;
3 a key store that is away, or no service; of `serve`, 70 a fault of the program, and 75, without workers, a key store
that only a new process mends.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, "-V", "--version", prog_name="privyseal-server")
def cli() -> None:
    """The signing service: two RSA operations for over-the-air app bundles, with keys that stay in their key store."""


@cli.command(short_help="Serve until SIGTERM or SIGINT.")
@config_option
def serve(config_file: Path) -> None:
    """Serve until SIGTERM or SIGINT, by worker processes of its own (server.workers, one for each core).

    Prints `listening AUTH ADDRESS` on standard output for each listener once it accepts calls; the log goes to
    standard error. Exits with 1 when a key cannot serve as configured or the audit trail does not hold, 2 for a
    configuration, a certificate, an address or an audit folder that cannot be used, 3 when the store of a required key
    is away, 70 for a fault of the program, and, without workers, 75 when a key store was lost to the process: start it
    again after these three (docs/recovery.md).

    \b
    Example:
      privyseal-server serve --config /etc/privyseal/privyseal.toml
    """  # noqa: D301 - click's own mark
    config = _load(config_file)
    from privyseal_service import logs  # noqa: PLC0415
    from privyseal_service.audit.running import sequencing  # noqa: PLC0415
    from privyseal_service.config import load_config  # noqa: PLC0415
    from privyseal_service.exits import StartError, start_error  # noqa: PLC0415
    from privyseal_service.process import keep_memory_together, set_up_grpc  # noqa: PLC0415
    from privyseal_service.supervisor import supervise, worker_count  # noqa: PLC0415

    set_up_grpc()

    if config.audit is None:
        raise CommandError(
            f"{config_file} has no [audit] table, and nothing is answered that is not on record; add one "
            "(`privyseal-server audit keygen` makes its key), or set enabled = false in it for a first try",
            USAGE,
        )
    keep_memory_together()
    logs.set_up(config.log)
    announce = _announce if config.audit.enabled else _announce_unrecorded
    try:
        with sequencing(config.audit) as sequencer:
            if worker_count(config):
                _await(supervise(config, announce=announce, load=lambda: load_config(config_file), sequencer=sequencer))
                code = 0
            else:
                code = _serve_alone(config, config_file, announce, sequencer)
    except StartError as error:
        raise CommandError(str(error), error.code) from None
    except OSError:
        raise  # of standard output, which whoever starts the service has to mend; see `main`
    except Exception as error:  # noqa: BLE001 - whatever runs the service is to start it again
        _log_defect()
        raise CommandError(str(start_error(error)), DEFECT) from None
    if code == LOST:
        from privyseal_service.process import end_at_once  # noqa: PLC0415

        end_at_once(code)


def _serve_alone(
    config: Config, config_file: Path, announce: Callable[[str], None], sequencer: RunningSequencer | None
) -> int:
    from privyseal_service import server  # noqa: PLC0415
    from privyseal_service.audit.errors import AuditUnavailableError  # noqa: PLC0415
    from privyseal_service.config import load_config  # noqa: PLC0415
    from privyseal_service.exits import start_error  # noqa: PLC0415
    from privyseal_service.keyring import KeyringError  # noqa: PLC0415
    from privyseal_service.oidc.sources import SourceError  # noqa: PLC0415
    from privyseal_service.ports import ListenError  # noqa: PLC0415
    from privyseal_service.process import run_service  # noqa: PLC0415
    from privyseal_service.quotas.limiter import LimitsError  # noqa: PLC0415
    from privyseal_service.tls import TlsError  # noqa: PLC0415

    try:
        serving = server.serve(config, announce=announce, load=lambda: load_config(config_file), sequencer=sequencer)
        return run_service(serving)
    except (AuditUnavailableError, KeyringError, TlsError, ListenError, SourceError, LimitsError) as error:
        raise start_error(error) from None


def _await(work: Coroutine[Any, Any, _T]) -> _T:
    import asyncio  # noqa: PLC0415

    return asyncio.run(work)


def _announce(line: str) -> None:
    from privyseal_service.exits import StartError  # noqa: PLC0415

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


@cli.command(short_help="Say what would serve and what would not, and why.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(config_file: Path, *, as_json: bool) -> None:
    """Say for each listener, issuer and key, for the Redis that counts and for the audit trail whether it would serve.

    When one would not: which part failed (module, token, PIN, object, attribute, mechanism, custody, certificate, key,
    CA, issuer, network, limits; audit, folder, log, sink) and the remedy. Prints each key's fingerprint, to be pinned
    in the configuration. Signs nothing. Exits with 1 when any would not serve.

    \b
    Example:
      privyseal-server check --config /etc/privyseal/privyseal.toml
    """  # noqa: D301 - click's own mark
    config = _load(config_file)
    from privyseal_service import check as checking  # noqa: PLC0415

    findings = _await(checking.check(config))
    ok = all(finding.ok for finding in findings)
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(checking.as_json(findings), indent=2))
    else:
        click.echo("\n".join(finding.line() for finding in findings))
    if not ok:
        sys.exit(REFUSED)


@cli.command(short_help="Say how the running service is.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's configuration, for its server.state_folder. The rest of it may be wrong.",
)
@click.option("--state-folder", metavar="DIR", type=click.Path(path_type=Path), help="The same folder, in its place.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def health(config_file: Path | None, state_folder: Path | None, *, as_json: bool) -> None:
    """Say how the running service is: its workers, its keys, and each thing that is wrong, as a sentence.

    It asks the service on this machine, as the service's own user or as root. Exits with 0 when it is ready and nothing
    is wrong, 1 when it is not ready or something is, 3 when no service answers.

    \b
    Example:
      privyseal-server health --config /etc/privyseal/privyseal.toml
    """  # noqa: D301 - click's own mark
    from privyseal_service import status  # noqa: PLC0415
    from privyseal_service.config import ConfigError, state_folder_of  # noqa: PLC0415

    if (config_file is None) == (state_folder is None):
        raise CommandError("name the service by --config FILE or by --state-folder DIR", USAGE)
    try:
        folder = state_folder or state_folder_of(config_file or Path())
        detail = status.ask(folder)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None
    except status.StatusError as error:
        raise CommandError(str(error), AWAY) from None
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(detail, indent=2))
    else:
        click.echo("\n".join(status.lines(detail)))
    if not detail["ready"] or status.problems(detail):
        sys.exit(REFUSED)


@cli.group()
def key() -> None:
    """Make a key in a key store, or move an existing one into it."""


@key.command("create")
@_key_target_options
@click.option(
    "--bits",
    type=click.Choice(["2048", "3072", "4096"]),
    default="2048",
    show_default=True,
    help="The key's size; Capgo's devices take 2048 alone.",
)
def key_create(name: str | None, config_file: Path | None, uri: str | None, purpose: str | None, bits: str) -> None:
    """Make a key inside its key store: sensitive, never extractable.

    Prints the public key on standard output (PKCS#1 PEM, what Capgo's configuration wants) and what was made on
    standard error. Nothing is ever replaced.

    \b
    Examples:
      privyseal-server key create --config privyseal.toml demo > public.pem
      privyseal-server key create --uri 'pkcs11:token=ota;object=app?module-path=…&pin-source=file:pin.txt'
    """  # noqa: D301 - click's own mark
    from privyseal_service import key_commands  # noqa: PLC0415

    target = _target(name, config_file, uri, purpose)
    description = _run(lambda: key_commands.create(target, int(bits)))
    click.echo(key_commands.report("made", target, description), err=True)
    _show(target, description)


@key.command("import", short_help="Move an RSA key from a file into its key store.")
@click.argument("pem", type=click.Path(path_type=Path))
@_key_target_options
def key_import(pem: Path, name: str | None, config_file: Path | None, uri: str | None, purpose: str | None) -> None:
    """Move the RSA key in the file PEM (PKCS#1 or PKCS#8, not encrypted) into a key store.

    It becomes sensitive and not extractable; its origin says imported. It is checked by a signature. Prints the public
    key on standard output (PKCS#1 PEM) and, on standard error, what was made and what remains to be done with the file.

    \b
    Example:
      privyseal-server key import .capgo_key_v2 --config privyseal.toml app
    """  # noqa: D301 - click's own mark
    from privyseal_service import key_commands  # noqa: PLC0415

    target = _target(name, config_file, uri, purpose)
    try:
        private_key = key_commands.read_private_key(pem)
    except key_commands.KeyFileError as error:
        raise CommandError(str(error), REFUSED if pem.is_file() else USAGE) from None
    description = _run(lambda: key_commands.import_key(target, private_key))
    click.echo(key_commands.report("imported", target, description), err=True)
    click.echo(key_commands.what_remains(pem), err=True)
    _show(target, description)


def _target(name: str | None, config_file: Path | None, uri: str | None, purpose: str | None) -> Target:
    from privyseal_service import key_commands  # noqa: PLC0415

    meant = key_commands.PURPOSE_NAMES[purpose] if purpose else None
    if uri is not None and config_file is None and name is None:
        return key_commands.target_by_uri(uri, meant)
    if uri is not None or config_file is None or name is None:
        raise CommandError("name the key by --config FILE NAME, or by --uri URI", USAGE)
    from privyseal_service.config import ConfigError  # noqa: PLC0415

    try:
        return key_commands.target_by_name(_load(config_file), name, meant)
    except (ConfigError, key_commands.TargetError) as error:
        raise CommandError(str(error), USAGE) from None


def _run(work: Callable[[], Coroutine[Any, Any, KeyDescription]]) -> KeyDescription:
    from privyseal_backends.interface import BackendError, CallerError, DeadlineError  # noqa: PLC0415
    from privyseal_service.key_commands import TargetError  # noqa: PLC0415
    from privyseal_service.keyring import may_heal  # noqa: PLC0415

    try:
        return _await(work())
    except TargetError as error:
        raise CommandError(str(error), USAGE) from None
    except BackendError as error:
        away = may_heal(error) or isinstance(error, DeadlineError)
        code = AWAY if away else USAGE if isinstance(error, CallerError) else REFUSED
        raise CommandError(str(error), code) from None


def _show(target: Target, description: KeyDescription) -> None:
    """Print the public key, and fail when the key does not serve as its configuration wants it."""
    from privyseal_backends.interface import BackendError  # noqa: PLC0415
    from privyseal_service.key_commands import check_bar  # noqa: PLC0415

    click.echo(description.public_key.pkcs1_pem, nl=False)
    try:
        check_bar(target, description)
    except BackendError as error:
        raise CommandError(f"the key is there, and cannot serve as configured: {error}", REFUSED) from None


cli.add_command(audit)
cli.add_command(grants)


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


def _log_defect() -> None:
    import logging  # noqa: PLC0415

    logging.getLogger("privyseal").debug("the program failed in a way that it should not", exc_info=True)


def main() -> None:
    """The entry point: harden the process, run the command, and say what went wrong in one sentence."""
    from privyseal_service.process import harden  # noqa: PLC0415

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
        _log_defect()
        click.echo(f"privyseal-server: {_missing(error)}", err=True)
        code = USAGE
    except Exception as error:  # noqa: BLE001 - an operator is owed a sentence; the trace is in the log at debug level
        _log_defect()
        click.echo(f"privyseal-server: a fault of the program itself, {type(error).__name__}: {error}", err=True)
        code = REFUSED
    sys.exit(code if isinstance(code, int) else 0)
