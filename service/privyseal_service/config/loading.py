"""Read the configuration and its files of grants, and check them; every error is one sentence."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
)

from privyseal_service.config.audit import AuditConfig
from privyseal_service.config.consistency import MismatchError, check_grants
from privyseal_service.config.fields import Model
from privyseal_service.config.grants import GrantConfig, HoursConfig
from privyseal_service.config.issuers import IssuerConfig
from privyseal_service.config.limits import LimitsConfig
from privyseal_service.domain.key_uris import resolve_paths, resolve_settings
from privyseal_service.system.file_watch import Seen, look

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

from privyseal_service.config.tables import (
    ClientCAConfig,
    Config,
    ConfigError,
    CustodyBar,
    IdentityConfig,
    KeyConfig,
    ListenerConfig,
    LogConfig,
    MetricsConfig,
    ServerConfig,
)

_M = TypeVar("_M", bound=Model)


class _GrantsFile(Model):
    """A file of grants, which holds nothing else."""

    grants: Annotated[tuple[GrantConfig, ...], Field(min_length=1)]


def load_config(file: Path) -> Config:
    """Read and check the configuration, and the files of grants that it names; relative paths in it are relative to its
    folder. Raises ConfigError."""
    seen = look(file)
    config = parse_config(_read(file, "name the configuration with --config"), str(file), file.absolute().parent)
    return config.with_grants(
        config.grants, {file.absolute(): seen, **dict(zip(config.files, config.seen, strict=True))}
    )


def state_folder_of(file: Path) -> Path:
    """The state folder that a configuration names, whatever else may be wrong with it. Raises ConfigError."""
    server = _read(file, "name the configuration with --config").get("server", {})
    named = server.get("state_folder") if isinstance(server, dict) else None
    if not isinstance(named, str):
        sentence = "server.state_folder is not set, and the service tells its health there alone: set it"
        raise ConfigError(f"{file}: {sentence}")
    return file.absolute().parent / named


def parse_config(data: dict[str, Any], name: str, folder: Path) -> Config:
    """Check a configuration that was read from the file `name` in `folder`, and read its files of grants. Raises
    ConfigError."""
    config = _absolute(_validated(Config, data, name), folder)
    grants, files = [grant.read_from(name) for grant in config.grants], dict[Path, Seen]()
    for file in _grants_files(config, files):
        files[file] = look(file)
        if not file.is_file():  # a link to nothing above all: its grants must not be gone without a word
            raise ConfigError(f"{file}: is no file, or a link to none; put one there, or take it away")
        filed = _validated(_GrantsFile, _read(file, "name another folder of grants"), str(file))
        grants += [grant.read_from(str(file)) for grant in filed.grants]
    config = config.with_grants(tuple(grants), files)
    try:
        check_grants(config)
    except MismatchError as error:
        raise ConfigError(f"{error.file}: {error}") from None
    return config


def _grants_files(config: Config, seen: dict[Path, Seen]) -> list[Path]:
    """The files in the folder of grants, by name; the folder itself is among what was seen. Raises ConfigError."""
    folder = config.server.grants_folder
    if folder is None:
        return []
    seen[folder] = look(folder)
    try:
        return sorted(file for file in folder.iterdir() if file.suffix == ".toml" and file.name[0] != ".")
    except OSError as error:
        raise ConfigError(f"{folder}: is no folder of grants that can be read: {error.strerror}") from None


def _read(file: Path, remedy: str) -> dict[str, Any]:
    """A file of TOML. Raises ConfigError."""
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file; {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8, so it is not TOML") from None
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None
    return data


def _validated(model: type[_M], data: dict[str, Any], name: str) -> _M:
    """The data as the model has it. Raises ConfigError."""
    try:
        # From JSON, strict means what TOML means: a list is a tuple, but no string is a number.
        return model.model_validate_json(json.dumps(data, default=_refuse))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{name}: {_sentence(problems[0])}{more}") from None
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None


def _refuse(value: object) -> object:
    raise TypeError(f"a {type(value).__name__} is no value of any setting; write it as a string or a number")


def _sentence(problem: ErrorDetails) -> str:
    where = ""
    for part in problem["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    match problem["type"]:
        case "extra_forbidden":
            meant = difflib.get_close_matches(str(problem["loc"][-1]), _settings(problem["loc"][:-1]), n=1)
            return f"{where}: there is no such setting" + (f"; did you mean {meant[0]}?" if meant else "")
        case "missing":
            return f"{where}: is missing"
        case "too_short":
            return f"{where}: must not be empty"
        case "string_pattern_mismatch":
            return f"{where}: must be letters, digits, dots, - and _, beginning with a letter or digit, at most 128"
        case "value_error":
            said = str(problem["ctx"]["error"])
        case _:
            said = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {said}" if where else said


def _settings(loc: tuple[int | str, ...]) -> list[str]:
    """The names of the settings that there are at a place, as far as the models tell."""
    model: Any = Config
    for part in loc:
        if isinstance(part, str):
            model = _NESTED.get(part, model)
    return list(model.model_fields)


_NESTED: dict[str, type[BaseModel]] = {
    "server": ServerConfig,
    "log": LogConfig,
    "identity": IdentityConfig,
    "audit": AuditConfig,
    "metrics": MetricsConfig,
    "limits": LimitsConfig,
    "listeners": ListenerConfig,
    "issuers": IssuerConfig,
    "client_cas": ClientCAConfig,
    "keys": KeyConfig,
    "custody": CustodyBar,
    "grants": GrantConfig,
    "window": HoursConfig,
}


def _absolute(config: Config, folder: Path) -> Config:
    """The configuration with every relative path made absolute."""
    listeners = []
    for listener in config.listeners:
        cas = tuple(ca.model_copy(update={"file": folder / ca.file}) for ca in listener.client_cas)
        update: dict[str, Any] = {"client_cas": cas}
        for name in ("certificate", "certificate_key"):
            path = getattr(listener, name)
            update[name] = folder / path if path else None
        if listener.address.startswith("unix:"):
            update["address"] = f"unix:{folder / listener.address.removeprefix('unix:')}"
        listeners.append(listener.model_copy(update=update))
    keys = tuple(key.model_copy(update={"uri": resolve_paths(key.uri, folder)}) for key in config.keys)
    server = {name: getattr(config.server, name) for name in ("grants_folder", "state_folder")}
    update = {
        "server": config.server.model_copy(update={name: folder / path for name, path in server.items() if path}),
        "listeners": tuple(listeners),
        "issuers": tuple(issuer.within(folder) for issuer in config.issuers),
        "limits": config.limits.within(folder),
        "keys": keys,
        "stores": {scheme: resolve_settings(scheme, said, folder) for scheme, said in config.stores.items()},
        "audit": config.audit.within(folder) if config.audit else None,
    }
    return config.model_copy(update=update)
