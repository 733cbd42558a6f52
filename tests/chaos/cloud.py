"""Cloud key stores that are down, slow, throttling or corrupting: the fakes of the conformance suite."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from privyseal_service.domain.operations import SignatureScheme
from tests.chaos.callers import Callers
from tests.chaos.judge import Verdict, at_rest, growth, recovery_s
from tests.chaos.stage import Program, Trail, connect, free_port, held
from tests.conformance.stores import STORES, Fault, StoreUnderTest
from tests.support.processes import until
from tests.support.programs import configuration, write_pki

CLOUDS = ("gcpkms", "awskms")
_FAULTS = {Fault.AWAY: "is down", Fault.HANGS: "is slow", Fault.BUSY: "throttles", Fault.CORRUPTED: "corrupts"}
_SCHEME = SignatureScheme.RSASSA_PKCS1_V1_5_SHA256


def cloud_verdicts(words: str, rng: random.Random, folder: Path) -> Iterator[Verdict]:
    """Run each fault of each store."""
    for cloud in CLOUDS:
        faults = [fault for fault, does in _FAULTS.items() if words in f"{cloud} {does}"]
        if faults:
            place = folder / cloud
            place.mkdir()
            with STORES[cloud](place) as store:
                yield from _on(cloud, store, faults, rng, place)


def _on(cloud: str, store: StoreUnderTest, faults: list[Fault], rng: random.Random, folder: Path) -> Iterator[Verdict]:
    key = next(each for each in store.keys if _SCHEME in each.schemes)
    address = f"127.0.0.1:{free_port()}"
    write_pki(folder)
    settings = "\n".join([f"[stores.{store.scheme}]", *(f"{name} = {value}" for name, value in store.settings.items())])
    text = configuration({"demo": (key.uri, [_SCHEME.value])}, extra=settings).replace("127.0.0.1:0", address)
    (folder / "server.toml").write_text(f"[server]\nworkers = 0\n{_custody(text)}")
    with store.in_this_process():
        program = Program(folder, {})
    with (
        program,
        Callers(lambda: connect(folder, address), key.public_key, capgo=False, number=3, pause_s=0.02) as callers,
    ):
        trail = Trail(folder)
        for fault in faults:
            yield _judge(f"{cloud} {_FAULTS[fault]}", fault, store, program, callers, rng, trail)


def _custody(text: str) -> str:
    return text.replace("[[keys]]", '[[keys]]\ncustody = { export = "possible" }')


def _judge(
    name: str,
    fault: Fault,
    store: StoreUnderTest,
    program: Program,
    callers: Callers,
    rng: random.Random,
    trail: Trail,
) -> Verdict:
    since_s = time.monotonic()
    until(lambda: callers.steady_since(since_s, 10) is not None, what="calm")
    before = held(program.processes, None)
    begun_s = time.monotonic()
    with store.failing(fault):
        time.sleep(rng.uniform(1, 3))
    recovered_s = recovery_s(callers, time.monotonic())
    after = at_rest(lambda: held(program.processes, None), lambda now: not growth(before, now))
    unrecorded = callers.unrecorded(trail.recorded)
    saw = dict(callers.since(begun_s))
    verdict = Verdict(name, saw, recovered_s, 2.0, before, after, len(callers.wrong), len(unrecorded))
    verdict.faults += growth(before, after)
    if callers.wrong or unrecorded:
        verdict.faults.append("a wrong or unrecorded signature was returned")
    callers.forget()
    return verdict
