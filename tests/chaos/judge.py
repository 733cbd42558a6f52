"""Runs a scenario under callers that sign all the time, and judges the result by the same questions each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.callers import Callers
from tests.chaos.scenarios import Case
from tests.chaos.stage import Held, Stage
from tests.support.processes import until

PATIENCE_S = 60.0
"""How long a recovery may take on a slow machine; `Case.bound_s` is how long it should take."""
_CALM = 20
_MEMORY_MIB = 48.0
"""Freed memory that allocators may keep, for each process."""
_DESCRIPTORS = 8
"""Connections that are being opened or closed, and files that are being read."""


@dataclass
class Verdict:
    """The result of one scenario."""

    name: str
    saw: dict[str, int]
    recovered_s: float
    bound_s: float
    before: Held
    after: Held
    wrong: int
    unrecorded: int
    codes: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def in_time(self) -> bool:
        """Whether the service recovered within the bound."""
        return self.recovered_s <= self.bound_s

    def __str__(self) -> str:
        saw = ", ".join(f"{number} {what}" for what, number in sorted(self.saw.items(), key=lambda item: -item[1]))
        late = "" if self.in_time else " LATE"
        return (
            f"{self.name}: served again after {self.recovered_s:.2f} s of {self.bound_s:g} s{late}; callers saw {saw}; "
            f"{self.wrong} wrong, {self.unrecorded} unrecorded; {self.before} before, {self.after} after"
            + (f"; the program ended with {', '.join(map(str, self.codes))}" if self.codes else "")
            + "".join(f"; FAULT: {fault}" for fault in self.faults)
        )


def judge(case: Case, stage: Stage, callers: Callers, rng: random.Random) -> Verdict:
    """Run one scenario. Raises AssertionError when the service does not recover."""
    _settle(stage, callers)
    before = stage.held()
    begun_s, stage.ended_s, ends = time.monotonic(), None, len(stage.program.codes)
    with case.scenario(stage, rng):
        pass
    ended_s = time.monotonic()
    recovered_s = recovery_s(callers, ended_s) + ended_s - (stage.ended_s or ended_s)
    _settle(stage, callers)
    saw = callers.since(begun_s)
    after = at_rest(stage.held, lambda now: not growth(before, now))
    unrecorded = callers.unrecorded(stage.trail.recorded)
    verdict = Verdict(
        case.name, dict(saw), recovered_s, case.bound_s, before, after, len(callers.wrong), len(unrecorded)
    )
    verdict.codes = stage.program.codes[ends:]
    verdict.faults += growth(before, after)
    if callers.wrong:
        verdict.faults.append("a wrong signature was returned")
    if unrecorded:
        verdict.faults.append("a signature was returned without its record")
    if not case.hurts and set(saw) != {"ok"}:
        verdict.faults.append("callers noticed")
    callers.forget()
    return verdict


def recovery_s(callers: Callers, ended_s: float) -> float:
    """Return the seconds from the end of the cause to the first of several successes in a row."""
    found: list[float] = []

    def served() -> bool:
        when = callers.steady_since(ended_s, 4)
        if when is not None:
            found.append(when)
        return bool(found)

    until(served, PATIENCE_S, "service")
    return found[0] - ended_s


def _settle(stage: Stage, callers: Callers) -> None:
    """Wait until all processes run and only successes have come for a while."""
    wanted = max(1, stage.number_of_workers + 1) if stage.number_of_workers else 1
    until(lambda: len(stage.program.processes) == wanted, PATIENCE_S, "every process")
    since_s = time.monotonic()
    until(lambda: callers.steady_since(since_s, _CALM) is not None, PATIENCE_S, "calm")


def growth(before: Held, after: Held) -> list[str]:
    """Return what has grown, in sentences."""
    grown = []
    if after.memory_mib > before.memory_mib + _MEMORY_MIB * before.processes:
        grown.append(f"memory grew from {before.memory_mib:.0f} to {after.memory_mib:.0f} MiB")
    if after.descriptors > before.descriptors + _DESCRIPTORS * before.processes:
        grown.append(f"descriptors grew from {before.descriptors} to {after.descriptors}")
    if after.sessions > max(before.sessions, 3 * max(1, before.processes - 1)):
        grown.append(f"sessions grew from {before.sessions} to {after.sessions}")
    if after.processes > before.processes:
        grown.append(f"processes grew from {before.processes} to {after.processes}")
    return grown


def at_rest(measure: Callable[[], Held], acceptable: Callable[[Held], bool]) -> Held:
    """Return the resources once they are acceptable, or after ten seconds."""
    end_s = time.monotonic() + 10
    while True:
        now = measure()
        if acceptable(now) or time.monotonic() > end_s:
            return now
        time.sleep(0.1)
