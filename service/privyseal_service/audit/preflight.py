"""Whether an audit trail could be kept as configured: its folder, key, log and sinks. Nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

from privyseal.transparency.checkpoint import VerifierKey, open_checkpoint
from privyseal.transparency.errors import AuditError
from privyseal_service.audit.keys import load_key
from privyseal_service.audit.layout import Layout
from privyseal_service.audit.sinks import HttpsPoster
from privyseal_service.config.audit import AuditConfig, FileSinkConfig, HttpsSinkConfig, StdoutSinkConfig

_LITTLE_ROOM_MIB = 256


class ProblemError(Exception):
    """An audit trail that could not be kept: which part of it ("folder", "key", "log", "sink"), why, and the remedy."""

    def __init__(self, part: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.part = part
        self.remedy = remedy


def inspect(config: AuditConfig) -> tuple[dict[str, str | int | list[str]], list[str]]:
    """Facts and notes on an audit trail that could be kept. Raises ProblemError."""
    notes = []
    key = _key(config)
    free_mib = _folder(config.root)
    if free_mib < _LITTLE_ROOM_MIB:
        notes.append(f"there is room for {free_mib} MiB in its folder; without room the service answers nothing")
    records = _log(config, key)
    for sink in config.sinks:
        _sink(sink)
    if not config.sinks:
        notes.append(
            "no checkpoint leaves this host, so whoever owns it could rewrite the trail; configure audit.sinks"
        )
    facts: dict[str, str | int | list[str]] = {
        "public_key": str(key),
        "folder": str(config.root),
        "free_mib": free_mib,
        "records": records,
        "sinks": [sink.kind for sink in config.sinks],
    }
    return facts, notes


def _key(config: AuditConfig) -> VerifierKey:
    try:
        key = load_key(config.key_file).verifier
    except AuditError as error:
        raise ProblemError("key", str(error)) from None
    except OSError as error:
        remedy = f"make it with: privyseal-server audit keygen {config.log} --output {config.key_file}"
        raise ProblemError("key", f"{config.key_file}: {_said(error)}", remedy) from None
    if key.name != config.log:
        remedy = "set log to that name, or name another key"
        raise ProblemError("key", f"{config.key_file} is the key of {key.name}, not of {config.log}", remedy)
    return key


def _folder(root: Path) -> int:
    """The room in the folder, or where it would be made, in MiB."""
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ProblemError("folder", f"{there} is not a folder", "name another one")
    if there == root and root.stat().st_mode & 0o022:
        raise ProblemError("folder", f"{root} can be changed by others", f"take that away with: chmod go-w {root}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ProblemError("folder", f"{there} cannot be written to", "give it to the user that the service runs as")
    room = os.statvfs(there)
    return room.f_bavail * room.f_frsize >> 20


def _log(config: AuditConfig, key: VerifierKey) -> int:
    """The number of records in the log."""
    path = Layout(config.root).log / "checkpoint"
    try:
        return open_checkpoint(path.read_bytes(), [key, *config.verifiers()]).size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise ProblemError("log", f"{path}: {_said(error)}", "let the service's user read it") from None
    except AuditError as error:
        remedy = "use the key that signed it, or name that key's public half in former_keys"
        raise ProblemError("log", f"{path}: {error}", remedy) from None


def _sink(sink: object) -> None:
    match sink:
        case FileSinkConfig():
            there = sink.path if sink.path.exists() else sink.path.parent
            if not os.access(there, os.W_OK):
                raise ProblemError("sink", f"{there} cannot be written to", "make it, or let the service's user write")
        case StdoutSinkConfig():
            pass
        case _:
            _https(sink)


def _https(sink: object) -> None:
    url, ca_file = str(getattr(sink, "url", "")), getattr(sink, "ca_file", None)
    try:
        HttpsPoster(url, ca_file=ca_file)
        if isinstance(sink, HttpsSinkConfig) and sink.token_file is not None:
            sink.token_file.read_bytes()
    except AuditError as error:
        raise ProblemError("sink", str(error)) from None
    except OSError as error:
        raise ProblemError("sink", f"{url}: {error.filename or ca_file}: {_said(error)}") from None


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
