"""A wall clock that jumps on cue, for a program that is started with `environment`: see clock.c.

clock = WallClock.build(tmp_path)
subprocess.Popen([...], env=os.environ | clock.environment)
clock.jump(3600)      # it is an hour later for that program and its children, and for nobody else
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from tests.support.compiling import compiled

_SOURCE = Path(__file__).with_name("clock.c")
_SECONDS = struct.Struct("<q")


class WallClock:
    """The clock of the programs that were started with `environment`."""

    def __init__(self, control: Path) -> None:
        self._control = control
        control.write_bytes(bytes(_SECONDS.size))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SECONDS.size)

    @classmethod
    def build(cls, folder: Path) -> WallClock:
        """With its control file in `folder`."""
        return cls(folder / "clock.control")

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program needs in its environment to go by this clock."""
        return {"LD_PRELOAD": str(compiled(_SOURCE)), "PRIVYSEAL_CLOCK": str(self._control)}

    def jump(self, off_s: int) -> None:
        """From now on be so many seconds ahead of the machine's clock, or behind it."""
        _SECONDS.pack_into(self._map, 0, off_s)
