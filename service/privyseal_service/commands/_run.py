"""What several commands do: load the configuration, run asynchronous work, log a defect."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from privyseal_service.system.exit_codes import USAGE

if TYPE_CHECKING:
    from privyseal_service.config.root import Config
from privyseal_service.commands._errors import CommandError

_T = TypeVar("_T")


def load_or_exit(file: Path) -> Config:
    from privyseal_service.config.errors import ConfigError  # noqa: PLC0415
    from privyseal_service.config.loading import load_config  # noqa: PLC0415

    try:
        return load_config(file)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    import asyncio  # noqa: PLC0415

    return asyncio.run(work)


def log_defect() -> None:
    import logging  # noqa: PLC0415

    logging.getLogger("privyseal").debug("the program failed in a way that it should not", exc_info=True)
