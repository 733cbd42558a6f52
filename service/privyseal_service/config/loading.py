"""Read the configuration and its files of grants, and check them. Every error is one sentence."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import Field, ValidationError

from privyseal_service.config.consistency import MismatchError, check_grants
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.fields import Live, Model
from privyseal_service.config.grants import GrantConfig
from privyseal_service.config.root import Config
from privyseal_service.system.file_watch import FileState, file_state

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_M = TypeVar("_M", bound=Model)


class _GrantsFile(Model):
    """A file of grants, which has no other table."""

    grants: Live[Annotated[tuple[GrantConfig, ...], Field(min_length=1)]]


def load_config(file: Path) -> Config:
    """Read and check the configuration and its files of grants. Relative paths are relative to the file's folder.
    Raises ConfigError."""
    seen = file_state(file)
    config = parse_config(_read(file, "name the configuration with --config"), str(file), file.absolute().parent)
    return config.with_grants(
        config.grants, {file.absolute(): seen, **dict(zip(config.files, config.seen, strict=True))}
    )


def state_folder_of(file: Path) -> Path:
    """Return the state folder of a configuration without checking the rest of it. Raises ConfigError."""
    server = _read(file, "name the configuration with --config").get("server", {})
    named = server.get("state_folder") if isinstance(server, dict) else None
    if not isinstance(named, str):
        raise ConfigError(
            f"{file}: server.state_folder: is not set, and health is reported only in that folder; set it"
        )
    return file.absolute().parent / named


def parse_config(data: dict[str, Any], name: str, folder: Path) -> Config:
    """Check a configuration that was read from the file `name` in `folder`, and read its files of grants. Raises
    ConfigError."""
    config = _validate(Config, data, name, folder)
    grants, files = list(config.grants), dict[Path, FileState]()
    for file in _grants_files(config, files):
        files[file] = file_state(file)
        if not file.is_file():  # such as a link whose target is gone: its grants must not disappear silently
            raise ConfigError(f"{file}: is neither a file nor a link to one; replace it, or remove it")
        grants += _validate(_GrantsFile, _read(file, "name another folder of grants"), str(file), folder).grants
    config = config.with_grants(tuple(grants), files)
    counts = config.server.state_folder is not None or config.limits.storage is not None
    try:
        check_grants(config.grants, {key.name for key in config.keys}, config.issuers, counts=counts)
    except MismatchError as error:
        raise ConfigError(f"{error.file}: {error}") from None
    return config


def _grants_files(config: Config, seen: dict[Path, FileState]) -> list[Path]:
    """Return the files of the folder of grants, by name, and add the folder to `seen`. Raises ConfigError."""
    folder = config.server.grants_folder
    if folder is None:
        return []
    seen[folder] = file_state(folder)
    try:
        return sorted(file for file in folder.iterdir() if file.suffix == ".toml" and file.name[0] != ".")
    except OSError as error:
        raise ConfigError(f"{folder}: the folder of grants cannot be read: {error.strerror}") from None


def _read(file: Path, remedy: str) -> dict[str, Any]:
    """Return the content of a TOML file. Raises ConfigError."""
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


def _validate(model: type[_M], data: dict[str, Any], name: str, folder: Path) -> _M:
    """Return the data as the model. Raises ConfigError."""
    try:
        # From JSON, strict validation accepts what TOML means: a list is a tuple, but a string is not a number.
        return model.model_validate_json(json.dumps(data, default=_refuse), context={"folder": folder, "file": name})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        # A list whose values are all wrong counts as empty, too.
        problems = [each for each in found if each["type"] != "too_short" or not _has_inner(each["loc"], found)]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{name}: {_sentence(problems[0], model)}{more}") from None
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None


def _has_inner(loc: tuple[int | str, ...], problems: Sequence[ErrorDetails]) -> bool:
    """Whether one of the problems is inside of the place `loc`."""
    return any(len(each["loc"]) > len(loc) and each["loc"][: len(loc)] == loc for each in problems)


def _refuse(value: object) -> object:
    raise TypeError(f"no setting is a {type(value).__name__}; write it as a string or a number")


_WORDED = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "union_tag_not_found": "kind is missing",
}
"""The sentences for problems that pydantic finds, by its names for them."""


def _sentence(problem: ErrorDetails, model: type[Model]) -> str:
    where, settings = _place(problem["loc"], model)
    kind, details = problem["type"], problem.get("ctx", {})
    match kind:
        case "extra_forbidden":
            meant = difflib.get_close_matches(str(problem["loc"][-1]), settings, n=1)
            text = "there is no such setting" + (f"; did you mean {meant[0]}?" if meant else "")
        case "value_error":
            text = str(details["error"])
        case "union_tag_invalid":  # pydantic's own sentence has the value
            text = f"kind must be one of {details['expected_tags']}"
        case "too_long" | "string_too_long":
            text = f"must have at most {details['max_length']} {'characters' if kind[0] == 's' else 'values'}"
        case _:
            text = _WORDED.get(kind) or problem["msg"].replace("Input should be", "must be")
    return f"{where}: {text}" if where else text


def _place(loc: tuple[int | str, ...], model: type[Model]) -> tuple[str, Sequence[str]]:
    """Return where a problem is, as `keys[0].custody.export`, and the names of the settings around it."""
    where, around, tables = "", list[type[Model]](), [model]
    for part in loc:
        if isinstance(part, int):
            where += f"[{part}]"
            continue
        if len(tables) > 1:  # of a union, pydantic names the kind by which it chose the model
            tables = [each for each in tables if part in get_args(each.model_fields["kind"].annotation)]
            continue
        where += f".{part}" if where else part
        field = next((each.model_fields[part] for each in tables if part in each.model_fields), None)
        around, tables = tables, _models_in(field.annotation) if field else []
    return where, [name for each in around for name in each.model_fields]


def _models_in(annotation: object) -> list[type[Model]]:
    """Return the models of a field's annotation: those of a union, or of a list's tables."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
