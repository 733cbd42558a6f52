"""The log on standard error: one line for each event, as text for a person or as JSON for a collector."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from privyseal_service.config import LogConfig


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, logger, message, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line = {**line, **getattr(record, "fields", {}), **line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))


class ConsoleFormatter(logging.Formatter):
    """Time, level, message, then the event's own fields as name=value. Control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; an exception follows on lines of its own."""
        fields = "".join(f" {name}={_shown(value)}" for name, value in getattr(record, "fields", {}).items())
        message = record.getMessage().encode("unicode_escape").decode()
        line = f"{_time(record)} {record.levelname.lower():7} {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, (str, dict)) else str(value)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def log_handler(config: LogConfig, stream: TextIO | None = None) -> logging.Handler:
    """The handler that writes the log as configured."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else ConsoleFormatter())
    return handler


def set_up(config: LogConfig) -> None:
    """Send this process's log to standard error."""
    logging.basicConfig(handlers=[log_handler(config)], level=config.level.upper(), force=True)
    # asyncio and gRPC say at debug level what peers sent; nobody needs that in this log.
    for name in ("asyncio", "grpc"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
