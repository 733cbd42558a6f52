"""A software key store that keeps a diary in a folder, dies on cue, and refuses a PIN on cue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from privyseal_backends.interface import Key, OperatorError
from tests.fakes.software_store import SoftwareStore


class DiaryStore(SoftwareStore):
    """Writes a line into `opened` for each key opened, and into `tries` for each PIN that was refused. While there is a
    file `die`, opening a key ends the process; a file `refuse`, and it refuses the PIN; a file `wait`, and it waits; a
    file `without-PID`, and that process finds no key."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def share_quota(self, processes: int) -> None:
        """See `interface.Metered`."""
        (self._folder / f"share-{os.getpid()}").write_text(str(processes))

    def use_cores(self, cores: int) -> None:
        """See `interface.Computing`."""
        (self._folder / f"cores-{os.getpid()}").write_text(str(cores))

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        self._note("opened")
        if (self._folder / "die").exists():
            os._exit(9)
        if (self._folder / "refuse").exists():
            self._note("tries")
            raise OperatorError("PIN", "the token 'diary' refused the PIN", "correct it")
        if (self._folder / f"without-{os.getpid()}").exists():
            raise OperatorError("object", "there is no such key in the diary", "make it")
        while (self._folder / "wait").exists():
            await asyncio.sleep(0.02)
        return await super().open_key(uri, fingerprint)

    def _note(self, name: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(f"{os.getpid()}\n")


def open_store(settings: Mapping[str, object]) -> SoftwareStore:
    """The entry point; `folder` is where the diary is."""
    rest = dict(settings)
    return DiaryStore(Path(str(rest.pop("folder"))))(rest)
