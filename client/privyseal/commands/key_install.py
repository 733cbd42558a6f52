"""`privyseal key install`: put a key's public half where the app's devices look for it."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal._terminal import result, say, warn
from privyseal.commands._connection import connection_options, open_client, refuse_key_file, settings_from
from privyseal.errors import InputError
from privyseal.model import Key, WrapScheme

if TYPE_CHECKING:
    from privyseal.exec.app import AppConfig

_EPILOG = """\b
Examples:
  privyseal key install my-app --capacitor-config capacitor.config.json --dry-run
  privyseal key install my-app --capacitor-config apps/mobile/capacitor.config.ts
"""


@click.command(epilog=_EPILOG, short_help="Put a public key into an app's Capacitor configuration.")
@click.argument("name", required=False)
@click.option(
    "--capacitor-config", "path", type=click.Path(path_type=Path), required=True, metavar="FILE", help="What to edit."
)
@click.option("--dry-run", is_flag=True, help="Print the change, and make none.")
@connection_options
def install(*, name: str | None, path: Path, dry_run: bool, timeout_s: float, **connection: Any) -> None:
    """Write the public key of the key NAME into FILE, as plugins.CapacitorUpdater.publicKey, and print the change.

    A .json keeps its formatting. A .ts or .js is evaluated by node, as the Capgo CLI does it, and edited only where one
    plain string holds the key now; else the text to put in is printed and the exit code is 1.
    """
    settings = settings_from(connection)
    refuse_key_file(name)

    from privyseal._files import read_small  # noqa: PLC0415 - help and version need none of it
    from privyseal.exec import app, child  # noqa: PLC0415

    before = _decoded(path, read_small(path))
    with open_client(settings, timeout_s) as client:
        found = client.get_key(name)
    pem = capgo_pem(found, remedy="name another key")
    environment = child.without_token(os.environ)
    if path.suffix == ".json":
        from privyseal.capacitor_config import edit_json  # noqa: PLC0415

        try:
            after = edit_json(before, pem)
        except InputError as error:
            raise InputError(f"{path}: {error.message}", remedy=error.remedy) from None
        config = app.read_config(path, environment, named=True)
    else:
        after, config = _edited_script(path, before, pem, environment)
    _warn_of(config, pem)
    if after == before:
        say(f"{path} has the public key of {found.name} already.")
        return
    result(_difference(path, before, after))
    if dry_run:
        say(f"{path} is as it was.")
        return
    _write(path, after)
    say(f"{path} has the public key of {found.name}; run `npx cap sync`, build the app and publish it in the stores.")


def capgo_pem(found: Key, *, remedy: str) -> str:
    """The public key as an app of Capgo wants it. Raises InputError for a key that devices cannot use."""
    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it
    from privyseal.verification import public_key_of  # noqa: PLC0415

    public_key = public_key_of(found)
    capgo.check_capgo_key(public_key)
    if WrapScheme.CAPGO not in found.wrap_schemes:
        raise InputError(f"the key {found.name} is not one that may seal for Capgo", remedy=remedy)
    return capgo.pkcs1_pem(public_key)


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8", remedy="name a Capacitor configuration") from None


def _edited_script(path: Path, before: str, pem: str, environment: dict[str, str]) -> tuple[str, AppConfig]:
    """The script with the key in it, which node has read with that result, and the configuration as it is now."""
    from privyseal.capacitor_config import edit_script, script_line  # noqa: PLC0415
    from privyseal.exec import app  # noqa: PLC0415

    try:
        config = app.read_config(path, environment, named=True)
        after = before if config.public_key == pem else edit_script(before, config.public_key or "", pem)
        if after is not None and (after == before or _reads_as(path, after, config, pem, environment)):
            return after, config
        problem = f"{path} cannot be edited safely"
    except InputError as error:
        problem = error.message
    result(script_line(pem))
    raise InputError(problem, remedy="put the line above into plugins.CapacitorUpdater by hand")


def _reads_as(path: Path, text: str, config: AppConfig, pem: str, environment: dict[str, str]) -> bool:
    """Whether node reads the new text as the old one with the new key. It stands beside the old one, for what the
    configuration imports."""
    from privyseal.exec import app  # noqa: PLC0415

    trial = path.with_name(f".privyseal-{os.urandom(8).hex()}{path.suffix}")
    try:
        trial.write_bytes(text.encode())
        found = app.read_config(trial, environment, named=True)
    finally:
        trial.unlink(missing_ok=True)
    return (found.public_key, found.app_id, found.has_private_key) == (pem, config.app_id, config.has_private_key)


def _warn_of(config: AppConfig, pem: str) -> None:
    if config.public_key is not None and config.public_key.split() != pem.split():
        warn(
            "the configuration had another key: apps that were built with it take no update that this key seals, and "
            "apps built with this key none of the other"
        )
    if config.has_private_key:
        warn("the configuration holds a privateKey, which everybody who has the app can read; take it out")


def _difference(path: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), fromfile=str(path), tofile=str(path), lineterm=""
    )
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and with the permissions that it had."""
    from privyseal._files import AtomicOutput, write_all  # noqa: PLC0415

    with AtomicOutput(path) as output:
        with output.writing():
            os.fchmod(output.file.fileno(), stat.S_IMODE(path.stat().st_mode))
            write_all(output.file, text.encode())
        output.publish()
