"""The flags for the service, the credential and the key; shared by the commands that call it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privyseal._terminal import warn
from privyseal.errors import ConfigurationError

if TYPE_CHECKING:
    from privyseal._client import Client
    from privyseal.configuration import Settings
    from privyseal.model import RequestContext

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--server", metavar="HOST:PORT", help="The signing service."),
    click.option("--ca", type=_FILE, metavar="FILE", help="Certificates that may have signed the service's (PEM)."),
    click.option("--cert", type=_FILE, metavar="FILE", help="This machine's client certificate (PEM)."),
    click.option("--cert-key", type=_FILE, metavar="FILE", help="The client certificate's private key (PEM)."),
    click.option("--token", metavar="TOKEN", help="A bearer token; others on this machine may see it: prefer a file."),
    click.option("--token-file", type=_FILE, metavar="FILE", help="A file that holds a bearer token."),
    click.option("--token-command", metavar="COMMAND", help="A program that prints a bearer token."),
    click.option("--insecure", is_flag=True, default=None, help="Connect without TLS; only to this machine itself."),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True, max=86_400),
        default=20.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a call to the service may take, its retries included.",
    ),
)


def connection_options(function: F) -> F:
    """Add the flags of a connection to a command; it takes them as `**connection`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def key_option(function: F) -> F:
    """Add `--key NAME`."""
    return click.option(
        "--key", metavar="NAME", help="The key's name at the service; not needed when there is only one."
    )(function)


def settings_from(flags: dict[str, Any], *, key: str | None = None, bundle_format: str | None = None) -> Settings:
    """The settings of flags, variables and files. Raises ConfigurationError."""
    from privyseal import configuration  # noqa: PLC0415 - help and version need none of it

    layer = configuration.Layer(
        origin="the command line",
        key=key,
        format=bundle_format,
        **{name: value for name, value in flags.items() if name != "timeout_s"},
    )
    settings = configuration.load(layer)
    refuse_key_file(settings.key)
    return settings


def open_client(settings: Settings, timeout_s: float, context: RequestContext | None = None) -> Client:
    """A client; prints a warning when it has no TLS."""
    from privyseal._client import Client  # noqa: PLC0415 - gRPC

    connection = settings.require_connection()
    if connection.insecure:
        warn(f"the connection to {connection.server} is not encrypted and proves nobody's identity")
    return Client.from_connection(connection, key=settings.key, timeout_s=timeout_s, context=context)


def refuse_key_file(key: str | None) -> None:
    """Raise ConfigurationError when the key is a file, as Capgo's own `--key` is. The file is not read beyond its first
    line, and nothing of it is shown."""
    if key is None:
        return
    if key.lstrip().startswith("-----BEGIN"):
        raise _not_a_file("--key holds a private key")
    path = Path(key)
    looks_like_one = (
        key.startswith(("/", "./", "../", "~")) or path.name.startswith(".capgo_key") or path.suffix == ".pem"
    )
    if looks_like_one or _is_pem(path):
        raise _not_a_file(f"--key {key} is a file")


def _not_a_file(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what}, but here --key is the name of a key at the signing service",
        remedy="bring the file's key there with `privyseal-server key import`, pass its name, and delete the file",
    )


def _is_pem(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"-----BEGIN")
    except (OSError, ValueError):
        return False
