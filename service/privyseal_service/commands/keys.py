"""`privyseal-server key`: make a key in a key store, or import an existing one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._run import load_or_fail, run_async
from privyseal_service.system.exit_codes import REFUSED, UNAVAILABLE, USAGE

if TYPE_CHECKING:
    from privyseal_backends.interface import KeyDescription
    from privyseal_service.keys.creation import Target

_TARGET_OPTIONS = (
    click.argument("name", required=False),
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The service's configuration, server.toml, which has a key called NAME.",
    ),
    click.option("--uri", metavar="URI", help="The key's URI, in place of --config and NAME."),
    click.option(
        "--purpose",
        type=click.Choice(["capgo", "signatures", "decryption"]),
        help="The only purpose of the key. With --config it follows from the key's schemes; otherwise capgo.",
    ),
)


def _target_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command


@click.group()
def key() -> None:
    """Make a key in a key store, or import an existing one."""


@key.command("create")
@_target_options
@click.option(
    "--bits",
    type=click.Choice(["2048", "3072", "4096"]),
    default="2048",
    show_default=True,
    help="The key's size; devices with Capgo accept only 2048.",
)
def key_create(name: str | None, config_file: Path | None, uri: str | None, purpose: str | None, bits: str) -> None:
    """Make a key inside its key store: sensitive, never extractable.

    Prints the public key on standard output (PKCS#1 PEM, for Capgo's configuration) and a report on standard error.
    Never replaces a key.

    \b
    Examples:
      privyseal-server key create --config server.toml demo > public.pem
      privyseal-server key create --uri 'pkcs11:token=ota;object=app?module-path=…&pin-source=file:pin.txt'
    """  # noqa: D301 - click's own mark
    from privyseal_service.keys import creation  # noqa: PLC0415

    target = _target(name, config_file, uri, purpose)
    description = _run(lambda: creation.create(target, int(bits)))
    click.echo(creation.report("made", target, description), err=True)
    _show(target, description)


@key.command("import", short_help="Import an RSA key from a file into its key store.")
@click.argument("pem", type=click.Path(path_type=Path))
@_target_options
def key_import(pem: Path, name: str | None, config_file: Path | None, uri: str | None, purpose: str | None) -> None:
    """Import the RSA key in the file PEM (PKCS#1 or PKCS#8, not encrypted) into a key store.

    The key becomes sensitive and not extractable; its origin is imported. A signature with it is verified. Prints the
    public key on standard output (PKCS#1 PEM) and, on standard error, a report and what to do with the file.

    \b
    Example:
      privyseal-server key import .capgo_key_v2 --config server.toml app
    """  # noqa: D301 - click's own mark
    from privyseal_service.keys import creation  # noqa: PLC0415

    target = _target(name, config_file, uri, purpose)
    try:
        private_key = creation.read_private_key(pem)
    except creation.KeyFileError as error:
        raise CommandError(str(error), REFUSED if pem.is_file() else USAGE) from None
    description = _run(lambda: creation.import_key(target, private_key))
    click.echo(creation.report("imported", target, description), err=True)
    click.echo(creation.remaining_steps(pem), err=True)
    _show(target, description)


def _target(name: str | None, config_file: Path | None, uri: str | None, purpose: str | None) -> Target:
    from privyseal_service.config.errors import ConfigError  # noqa: PLC0415
    from privyseal_service.keys import creation  # noqa: PLC0415

    wanted = creation.PURPOSE_NAMES[purpose] if purpose else None
    if uri is not None and config_file is None and name is None:
        return creation.target_by_uri(uri, wanted)
    if uri is not None or config_file is None or name is None:
        raise CommandError("name the key with --config FILE NAME, or with --uri URI", USAGE)
    try:
        return creation.target_by_name(load_or_fail(config_file), name, wanted)
    except (ConfigError, creation.TargetError) as error:
        raise CommandError(str(error), USAGE) from None


def _run(work: Callable[[], Coroutine[Any, Any, KeyDescription]]) -> KeyDescription:
    from privyseal_backends.interface import BackendError, CallerError, DeadlineError  # noqa: PLC0415
    from privyseal_service.keys.creation import TargetError  # noqa: PLC0415
    from privyseal_service.keys.served_key import may_heal  # noqa: PLC0415

    try:
        return run_async(work())
    except TargetError as error:
        raise CommandError(str(error), USAGE) from None
    except BackendError as error:
        unavailable = may_heal(error) or isinstance(error, DeadlineError)
        code = UNAVAILABLE if unavailable else USAGE if isinstance(error, CallerError) else REFUSED
        raise CommandError(str(error), code) from None


def _show(target: Target, description: KeyDescription) -> None:
    """Print the public key. Raises CommandError when the key does not fit its entry in the configuration."""
    from privyseal_backends.interface import BackendError  # noqa: PLC0415
    from privyseal_service.keys.creation import check_configured  # noqa: PLC0415

    click.echo(description.public_key.pkcs1_pem, nl=False)
    try:
        check_configured(target, description)
    except BackendError as error:
        raise CommandError(f"the key was stored, but cannot serve as configured: {error}", REFUSED) from None
