"""SIGHUP with the real program: live settings take effect, and one that needs a restart changes nothing anywhere.

tests/unit/config/test_changes.py goes over every setting; here is one test for each group of live ones. The tests of
keys, grants, issuers, certificates and CAs are in tests/integration/runtime: test_changed_keys.py,
test_changed_grants.py, test_changed_files.py and test_program_reload.py.
"""

from __future__ import annotations

import os
import signal

import grpc
import pytest

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.support.processes import children, until
from tests.support.service import secure_channel
from tests.support.serving import CALLER, KEY, SIGN, Place, Serving, configure_software, head, outcome, settled

RELOADED = "the configuration was reloaded"
"""What the log has when a configuration is in force."""

FROZEN = KEY + 'state = "frozen"\n'


def reload(serving: Serving, **how: object) -> None:
    """Write another configuration, and have it read."""
    configure_software(serving.place, **how)  # type: ignore[arg-type]
    serving.process.send_signal(signal.SIGHUP)


def take_up(serving: Serving, **how: object) -> None:
    """Reload, and wait until the configuration is in force."""
    before = serving.log.count(RELOADED)
    reload(serving, **how)
    until(lambda: serving.log.count(RELOADED) > before)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_needs_a_restart_changes_nothing(software: Place, workers: int) -> None:
    configure_software(software, head=head(workers))
    with software.serving() as serving:
        reload(serving, head=head(workers, max_connections=1), key=FROZEN)
        until(lambda: "server.max_connections" in serving.log)
        settled(serving, "OK")
        assert serving.stop() == 0


def test_workers_that_are_started_later_serve_the_configuration_that_is_in_force(software: Place) -> None:
    configure_software(software, head=head(1))
    with software.serving() as serving:
        reload(serving, head=head(1, max_connections=1, pin_workers=True), key=FROZEN)
        until(lambda: "server.pin_workers, server.max_connections" in serving.log)
        (first,) = children(serving.process.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: children(serving.process.pid) not in ([], [first]))
        until(lambda: outcome(serving) == "OK")
        (second,) = children(serving.process.pid)
        assert os.sched_getaffinity(second) == os.sched_getaffinity(0)
        with serving.channel() as channel:  # a connection beside another, which max_connections = 1 would refuse
            assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=20).signature
            assert outcome(serving) == "OK"
        assert serving.stop() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_times_of_a_stop(software: Place, workers: int) -> None:
    configure_software(software, head=head(workers, drain_wait_s=3600))
    with software.serving() as serving:
        take_up(serving, head=head(workers, drain_wait_s=0, shutdown_grace_s=77))
        assert serving.stop() == 0
        assert "calls in flight have 77 s" in serving.log


def test_the_number_of_workers(software: Place) -> None:
    configure_software(software, head=head(1))
    with software.serving() as serving:
        for number in (2, 1):
            take_up(serving, head=head(number))
            until(lambda number=number: len(children(serving.process.pid)) == number)  # type: ignore[misc]
        reload(serving, head=head(0))
        until(lambda: "server.workers" in serving.log)
        assert outcome(serving) == "OK"


def test_when_a_worker_hangs(software: Place) -> None:
    configure_software(software, head=head(1, hang_after_s=3600))
    with software.serving() as serving:
        (first,) = children(serving.process.pid)
        take_up(serving, head=head(1, hang_after_s=2))
        outcome(serving)
        while True:  # a worker that is stopped before its next report still has the time of its last one
            os.kill(first, signal.SIGSTOP)
            try:
                until(lambda: first not in children(serving.process.pid), 6)
            except AssertionError:
                os.kill(first, signal.SIGCONT)
                assert serving.process.poll() is None
                continue
            break
        until(lambda: outcome(serving) == "OK")
        assert serving.stop() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_watching_and_the_folder_of_grants(software: Place, workers: int) -> None:
    (software.folder / "grants.d").mkdir()
    configure_software(software, head=head(workers))
    with software.serving() as serving:
        grant = f'[[grants]]\nname = "filed"\ncallers = ["{CALLER}"]\nkeys = ["demo"]\noperations = ["sign-checksum"]\n'
        software.configure(
            KEY,
            head=f"{head(workers, watch=True, grants_folder='grants.d')}\n"
            f'[stores.software]\nkeys = {{ demo = "{software.folder}/demo.pem" }}',
            grants="",
        )
        serving.process.send_signal(signal.SIGHUP)
        settled(serving, "PERMISSION_DENIED")
        (software.folder / "grants.d" / "filed.toml").write_text(grant)
        settled(serving, "OK")
        assert serving.stop() == 0


def test_how_long_a_reload_waits_for_a_key_store(software: Place) -> None:
    configure_software(software, head=head(0, open_wait_s=0.1), hang=True)
    with software.serving() as serving:
        reload(
            serving, head=head(0, open_wait_s=0.3), key=KEY + "required = true\n" + KEY.replace("demo", "b"), hang=True
        )
        until(lambda: "did not answer within 0.3 s" in serving.log)


def test_denied_certificates(software: Place) -> None:
    configure_software(software)
    leaf = software.ca.issue(dns=[CALLER.removeprefix("dns:")])
    with software.serving() as serving, secure_channel(serving.address, software.ca, leaf) as channel:
        stub = SigningServiceStub(channel)
        assert stub.SignChecksum(SIGN, timeout=20).signature
        denied = f'[identity]\ndenied_certificates = ["serial:{leaf.certificate.serial_number:x}"]\n'
        take_up(serving, head=denied)
        with pytest.raises(grpc.RpcError) as refused:
            stub.SignChecksum(SIGN, timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        assert outcome(serving) == "OK"


@pytest.mark.parametrize("workers", [0, 1])
def test_where_rates_are_counted(software: Place, workers: int) -> None:
    configure_software(software, head=head(workers, state_folder="state"))
    rated = software.config.read_text() + 'rate = "1000/second"\n'
    software.config.write_text(rated)
    with software.serving() as serving:
        settled(serving, "OK")
        for when, wanted in (("refuse", "UNAVAILABLE"), ("allow", "OK"), ("refuse", "UNAVAILABLE")):
            redis = f'[limits]\nstorage = "redis://127.0.0.1:1"\nwhen_away = "{when}"\n'
            software.config.write_text(f"{redis}{rated}")
            serving.process.send_signal(signal.SIGHUP)
            settled(serving, wanted)
        software.config.write_text(rated)
        serving.process.send_signal(signal.SIGHUP)
        settled(serving, "OK")
        assert serving.stop() == 0
