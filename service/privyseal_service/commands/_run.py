"""Steps that several commands share."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from privyseal_service.commands._errors import CommandError
from privyseal_service.system.exit_codes import USAGE

if TYPE_CHECKING:
    from privyseal_service.config.root import Config

_T = TypeVar("_T")


def load_or_fail(file: Path) -> Config:
    """Load the configuration. Raises CommandError."""
    from privyseal_service.config.errors import ConfigError  # noqa: PLC0415
    from privyseal_service.config.loading import load_config  # noqa: PLC0415

    try:
        return load_config(file)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, in an event loop of its own."""
    import asyncio  # noqa: PLC0415

    return asyncio.run(work)


def log_internal_error() -> None:
    """Log the exception that is being handled, with its trace, at debug level."""
    import logging  # noqa: PLC0415

    logging.getLogger("privyseal").debug("internal error", exc_info=True)
