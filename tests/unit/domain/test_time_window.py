"""Time windows: days, hours over midnight, and clocks that are changed."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest

from privyseal_service.domain.time_window import Hours

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def hold(days: str, hours: str, at: str, zone: datetime.tzinfo = BERLIN) -> bool:
    window = Hours.parse(frozenset(days.split()), hours, zone, "there")
    return window.hold(datetime.datetime.fromisoformat(at).timestamp())


@pytest.mark.parametrize(
    ("days", "hours", "at", "holds"),
    [
        ("mon", "08:00-18:00", "2026-11-23T07:59:59+01:00", False),
        ("mon", "08:00-18:00", "2026-11-23T08:00:00+01:00", True),
        ("mon", "08:00-18:00", "2026-11-23T17:59:59+01:00", True),
        ("mon", "08:00-18:00", "2026-11-23T18:00:00+01:00", False),
        ("mon", "08:00-18:00", "2026-11-24T12:00:00+01:00", False),
        ("mon", "00:00-24:00", "2026-11-22T23:30:00+00:00", True),  # Monday in Berlin, Sunday in UTC
        ("fri", "22:00-06:00", "2026-11-27T21:59:00+01:00", False),
        ("fri", "22:00-06:00", "2026-11-28T05:59:00+01:00", True),
        ("fri", "22:00-06:00", "2026-11-28T06:00:00+01:00", False),
        ("fri", "22:00-06:00", "2026-11-27T05:00:00+01:00", False),  # that night began on Thursday
        ("sun", "22:00-06:00", "2026-11-30T05:00:00+01:00", True),
        ("sun", "08:00-09:00", "2026-03-29T06:30:00+00:00", True),  # an hour earlier by UTC, since summer began
        ("sun", "08:00-09:00", "2026-03-29T07:30:00+00:00", False),
        ("sun", "08:00-09:00", "2026-03-22T07:30:00+00:00", True),
    ],
)
def test_windows(days: str, hours: str, at: str, holds: bool) -> None:
    assert hold(days, hours, at) is holds


@pytest.mark.parametrize(
    "hours", ["", "8:00-18:00", "08:00", "08:00-25:00", "08:60-09:00", "24:00-08:00", "08:00-18:00 "]
)
def test_what_are_no_hours(hours: str) -> None:
    with pytest.raises(ValueError, match="must be HH:MM-HH:MM"):
        Hours.parse(frozenset({"mon"}), hours, BERLIN, "there")
