"""The log on standard error: one line for each event, as text for a person or as JSON for a collector."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from privyseal_service.system.escaping import escape_non_ascii

if TYPE_CHECKING:
    from privyseal_service.config.log import LogConfig

_KEPT = ("time", "level", "logger", "message", "worker")


class _Clock:
    """The time of a record as RFC 3339 in UTC. The second is formatted once, since many records share one."""

    def __init__(self) -> None:
        self._second = (-1, "")

    def text(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{int(record.created * 1_000_000) % 1_000_000:06}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, logger, the worker's number (if any), message, and the
    event's own fields."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._clock = _Clock()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as a line, without its end."""
        line: dict[str, Any] = {
            "time": self._clock.text(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
            "message": record.getMessage(),
        }
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        line.update((name, value) for name, value in fields.items() if name not in _KEPT)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class ConsoleFormatter(logging.Formatter):
    """Time, level, message, then the event's own fields as name=value. All but printable ASCII is escaped."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as a line, without its end; an exception follows on lines of its own."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        shown = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        line = f"{self._clock.text(record)} {record.levelname.lower():7} {escape_non_ascii(record.getMessage())}{shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: object) -> str:
    if isinstance(value, (int, float)):
        return str(value)
    return escape_non_ascii(orjson.dumps(value, default=str).decode())


def make_handler(config: LogConfig, stream: TextIO | None = None, worker: int | None = None) -> logging.Handler:
    """Return the handler that writes the log as configured."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if config.format == "json" else ConsoleFormatter())
    return handler


def configure(config: LogConfig, *, worker: int | None = None) -> None:
    """Send this process's log to standard error; a worker's log has the worker's number."""
    logging.basicConfig(handlers=[make_handler(config, worker=worker)], level=config.level.upper(), force=True)
    # asyncio and gRPC log what peers sent at debug level, which does not belong in this log.
    for name in ("asyncio", "grpc"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
