"""Where the settings come from: flags, then variables, then the project's file, then the user's own.

    flags                                   everything
    PRIVYSEAL_SERVER, _KEY, _CA, _CERT, _CERT_KEY, _TOKEN, _TOKEN_FILE
    privyseal.toml in the working folder    `key` and `format` only, since a pull request can change it
    privyseal/config.toml in $XDG_CONFIG_HOME or ~/.config: everything

A caller has one identity: the highest of these that holds a certificate or a token decides which of the two it is.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from privyseal._files import read_small
from privyseal.errors import ConfigurationError
from privyseal.model import BundleFormat

PROJECT_FILE = "privyseal.toml"
PROJECT_SETTINGS = ("key", "format")

_SERVICE_TABLES = ("listeners", "keys", "grants", "issuers")
"""Lists of tables in the service's configuration, which had the same name once."""


@dataclass(frozen=True)
class Layer:
    """The settings of one place; None is not set. `origin` names the place for a person."""

    origin: str
    server: str | None = None
    key: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    token_command: str | None = None
    format: str | None = None
    insecure: bool | None = None


@dataclass(frozen=True)
class Connection:
    """How to reach the service, and as whom.

    `server` is HOST:PORT. `ca` is a PEM file of the certificates that may have signed the service's; None means the
    system's. Either `cert` and `cert_key` are set, or at most one of the three kinds of token. `insecure` is a
    connection without TLS, for loopback only.
    """

    server: str
    ca: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    token_command: str | None = None
    insecure: bool = False


@dataclass(frozen=True)
class Settings:
    """All settings after the places were merged. `key` None means the only key that the caller may use."""

    connection: Connection | None
    key: str | None
    format: BundleFormat

    def require_connection(self) -> Connection:
        """The connection, or ConfigurationError when no server is named anywhere."""
        if self.connection is None:
            raise ConfigurationError(
                "no signing service is named", remedy="pass --server HOST:PORT or set PRIVYSEAL_SERVER"
            )
        return self.connection


_VARIABLES = {
    "server": "PRIVYSEAL_SERVER",
    "key": "PRIVYSEAL_KEY",
    "ca": "PRIVYSEAL_CA",
    "cert": "PRIVYSEAL_CERT",
    "cert_key": "PRIVYSEAL_CERT_KEY",
    "token": "PRIVYSEAL_TOKEN",
    "token_file": "PRIVYSEAL_TOKEN_FILE",
}
_PATHS = {"ca", "cert", "cert_key", "token_file"}
_FLAG_NAMES = {"cert_key": "--cert-key", "token_file": "--token-file", "token_command": "--token-command"}
_USER_SETTINGS = tuple(f.name for f in fields(Layer) if f.name not in {"origin", "insecure"})
_CERTIFICATE = ("cert", "cert_key")
_TOKENS = ("token", "token_file", "token_command")


def load(flags: Layer, *, environ: Mapping[str, str] | None = None, working_folder: Path | None = None) -> Settings:
    """Merge flags, variables and files. Raises ConfigurationError and FileUnusableError."""
    environ = os.environ if environ is None else environ
    working_folder = working_folder or Path()
    layers = (flags, _from_variables(environ), _from_project(working_folder), _from_user(environ))
    return merge(layers)


def merge(layers: tuple[Layer, ...]) -> Settings:
    """Merge places, the first of which wins. Raises ConfigurationError."""
    server = _first(layers, "server")
    return Settings(
        connection=None if server is None else _connection(server, layers),
        key=_first(layers, "key"),
        format=_format(layers),
    )


def _first(layers: tuple[Layer, ...], name: str) -> Any:
    return next((value for layer in layers if (value := getattr(layer, name)) is not None), None)


def _format(layers: tuple[Layer, ...]) -> BundleFormat:
    for layer in layers:
        if layer.format is not None:
            try:
                return BundleFormat(layer.format)
            except ValueError:
                known = ", ".join(f.value for f in BundleFormat)
                raise ConfigurationError(
                    f"{layer.origin}: there is no format {layer.format!r}", remedy=f"use one of {known}"
                ) from None
    return BundleFormat.AUTO


def _connection(server: str, layers: tuple[Layer, ...]) -> Connection:
    identity = _identity(layers)
    host_and_port, plain = _split_scheme(server)
    return Connection(
        server=host_and_port,
        ca=_first(layers, "ca"),
        insecure=plain or bool(_first(layers, "insecure")),
        **identity,
    )


def _split_scheme(server: str) -> tuple[str, bool]:
    """The HOST:PORT or dns:///HOST:PORT of a server, and whether its scheme asks for no TLS."""
    scheme, separator, rest = server.partition("://")
    if not separator or (scheme == "dns" and rest.startswith("/")):
        return server, False
    if scheme not in {"http", "https"} or not rest.rstrip("/"):
        raise ConfigurationError(f"{server!r} is not an address of a signing service", remedy="write HOST:PORT")
    return rest.rstrip("/"), scheme == "http"


def _identity(layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Who the caller is, decided by the first place that has a credential."""
    for number, layer in enumerate(layers):
        certificate = [name for name in _CERTIFICATE if getattr(layer, name) is not None]
        tokens = [name for name in _TOKENS if getattr(layer, name) is not None]
        if (certificate and tokens) or len(tokens) > 1:
            named = " and ".join(_FLAG_NAMES.get(name, f"--{name}").lstrip("-") for name in (*certificate[:1], *tokens))
            raise ConfigurationError(
                f"{layer.origin}: {named} are set together", remedy="a caller has one identity; keep one"
            )
        if tokens:
            return {tokens[0]: getattr(layer, tokens[0])}
        if certificate:
            found = {name: _first(layers[number:], name) for name in _CERTIFICATE}
            missing = next((name for name, value in found.items() if value is None), None)
            if missing:
                raise ConfigurationError(
                    f"{layer.origin}: a client certificate needs both its file and its key's",
                    remedy=f"add {_FLAG_NAMES.get(missing, f'--{missing}')} FILE",
                )
            return found
    return {}


def _from_variables(environ: Mapping[str, str]) -> Layer:
    values: dict[str, Any] = {}
    for name, variable in _VARIABLES.items():
        # A variable set to nothing is how many CI systems write one that is not set.
        value = environ.get(variable)
        if value:
            values[name] = Path(value) if name in _PATHS else value
    return Layer(origin="the environment (PRIVYSEAL_…)", **values)


def _from_project(working_folder: Path) -> Layer:
    path = working_folder / PROJECT_FILE
    if not path.exists():
        return Layer(origin=str(path))
    path = path.absolute()
    values = _read_toml(path)
    if isinstance(values.get("server"), dict) or any(isinstance(values.get(name), list) for name in _SERVICE_TABLES):
        raise ConfigurationError(
            f"{path} is the configuration of a signing service, and the client reads a file of this name",
            remedy="rename it to server.toml, which `privyseal-server --config` reads",
        )
    others = sorted(set(values) - set(PROJECT_SETTINGS))
    if others:
        raise ConfigurationError(
            f"{path} sets {', '.join(others)}",
            remedy=f"it may set only {' and '.join(PROJECT_SETTINGS)}, since a pull request can change it",
        )
    return Layer(origin=str(path), **_strings(path, values))


def user_file(environ: Mapping[str, str]) -> Path:
    """The user's own configuration file."""
    home = environ.get("XDG_CONFIG_HOME")
    # The XDG Base Directory Specification has a relative path ignored.
    folder = (
        Path(home) if home and Path(home).is_absolute() else Path(environ.get("HOME") or "~").expanduser() / ".config"
    )
    return folder / "privyseal" / "config.toml"


def _from_user(environ: Mapping[str, str]) -> Layer:
    path = user_file(environ)
    values = _read_toml(path)
    unknown = sorted(set(values) - set(_USER_SETTINGS))
    if unknown:
        raise ConfigurationError(
            f"{path}: there is no setting {', '.join(unknown)}", remedy=f"use {', '.join(_USER_SETTINGS)}"
        )
    strings: dict[str, Any] = _strings(path, values)
    if "token" in strings and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{path} holds a token and others can read it", remedy=f"run `chmod 600 {path}`")
    for name in _PATHS & set(strings):
        strings[name] = path.parent / Path(strings[name]).expanduser()
    return Layer(origin=str(path), **strings)


def _strings(path: Path, values: Mapping[str, object]) -> dict[str, Any]:
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{path}: {name} is not a text", remedy=f'write {name} = "…"')
    return dict(values)


def _read_toml(path: Path) -> Mapping[str, object]:
    if not path.exists():
        return {}
    # Imported here, since most runs have no such file and it costs more than the rest of this module.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        values: Mapping[str, object] = toml.loads(read_small(path).decode())
    except ValueError as error:  # both that of TOML and that of UTF-8
        raise ConfigurationError(f"{path} is not TOML: {error}", remedy="correct it") from None
    return values
