"""When a grant applies: on some days, between two times of day, in one time zone. Pure."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """A weekly time window: `days` as numbers (Monday is 0), minutes since midnight from `start` (inclusive) to `end`
    (exclusive). If the end is not after the start, the window ends on the next day, and its day is the one on which it
    begins. Times are wall-clock times of `zone` and follow its daylight-saving time."""

    days: frozenset[int]
    start: int
    end: int
    zone: datetime.tzinfo
    text: str

    @classmethod
    def parse(cls, days: frozenset[str], hours: str, zone: datetime.tzinfo, zone_name: str) -> Hours:
        """Parse a window from days as in `DAYS` and hours as `08:00-18:00`. Raises ValueError."""
        match = _HOURS.fullmatch(hours)
        if not match:
            raise ValueError("must be HH:MM-HH:MM, 00:00 to 24:00")
        start = 60 * int(match[1]) + int(match[2])
        end = 60 * int(match[3]) + int(match[4]) if match[3] else _DAY_MINUTES
        named = ", ".join(day for day in DAYS if day in days)
        return cls(frozenset(map(DAYS.index, days)), start, end, zone, f"{named} {hours} {zone_name}")

    def hold(self, now_s: float) -> bool:
        """Return whether the window contains a time, in seconds since 1970."""
        local = datetime.datetime.fromtimestamp(now_s, self.zone)
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)
