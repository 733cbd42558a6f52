"""Runs a scenario under callers that never stop, and says what became of it: for each the same questions."""

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
"""How long a recovery may take on any machine; how long it should take is `Case.bound_s`."""
_CALM = 20
_MEMORY_MIB = 48.0
"""Memory that allocators keep, per process, whatever was freed."""
_DESCRIPTORS = 8
"""Connections that are being made or closed, files that are being read."""


@dataclass
class Verdict:
    """What became of one scenario."""

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
        """Whether callers were served again as soon as they should be."""
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
    """Run one scenario. Raises AssertionError when the service does not come back at all."""
    _settle(stage, callers)
    before = stage.held()
    begun_s, stage.ended_s, ends = time.monotonic(), None, len(stage.program.codes)
    with case.scenario(stage, rng):
        pass
    mended_s = time.monotonic()
    recovered_s = recovery_s(callers, mended_s) + mended_s - (stage.ended_s or mended_s)
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
        verdict.faults.append("a wrong signature left the service")
    if unrecorded:
        verdict.faults.append("a signature left without its record")
    if not case.hurts and set(saw) != {"ok"}:
        verdict.faults.append("callers noticed")
    callers.forget()
    return verdict


def recovery_s(callers: Callers, ended_s: float) -> float:
    found: list[float] = []

    def served() -> bool:
        when = callers.steady_since(ended_s, 4)
        if when is not None:
            found.append(when)
        return bool(found)

    until(served, PATIENCE_S, "service")
    return found[0] - ended_s


def _settle(stage: Stage, callers: Callers) -> None:
    """Wait until all processes are there and nothing but good answers has come for a while."""
    wanted = max(1, stage.number_of_workers + 1) if stage.number_of_workers else 1
    until(lambda: len(stage.program.processes) == wanted, PATIENCE_S, "every process")
    since_s = time.monotonic()
    until(lambda: callers.steady_since(since_s, _CALM) is not None, PATIENCE_S, "calm")


def growth(before: Held, after: Held) -> list[str]:
    """What is not back where it was."""
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


def at_rest(look: Callable[[], Held], fine: Callable[[Held], bool]) -> Held:
    """What is held once it is fine, or after a while in which it was not."""
    end_s = time.monotonic() + 10
    while True:
        now = look()
        if fine(now) or time.monotonic() > end_s:
            return now
        time.sleep(0.1)
