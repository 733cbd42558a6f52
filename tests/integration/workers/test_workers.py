"""Workers that die, hang, are too many or too few, and a supervisor that is killed: nobody who signs notices."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from privyseal.errors import ServiceError
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.system.cpus import core_count
from tests.support.processes import lives, reaped, until
from tests.support.serving import KEY, SIGN, Place
from tests.support.workers import Builds, all_listening, configure, listeners, sdk, sign, workers


def last_sentence(farm: Place, code: int) -> str:
    """What `serve` said when it could not start."""
    done = farm.run("serve", "--config", str(farm.config))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_builds_do_not_notice_that_workers_are_killed(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as first:
        with Builds(serving) as builds:
            for pid in first:
                builds.go_on()
                os.kill(pid, signal.SIGKILL)
                # In this order: a process that is about to end still listens.
                until(lambda: reaped(pid) and len(listeners(serving)) == 2)  # noqa: B023 - called here
            builds.go_on()
        assert builds.errors == []
        assert not set(first) & set(workers(serving))
        assert serving.stop() == 0
        assert "was ended by SIGKILL; it is started again in 0.0 s" in serving.log


def test_a_worker_that_hangs_is_replaced(farm: Place) -> None:
    configure(farm, workers=2, hang_after_s=2)
    with farm.serving() as serving, all_listening(serving) as (_, hanging), Builds(serving) as builds:
        builds.go_on()
        os.kill(hanging, signal.SIGSTOP)
        until(lambda: reaped(hanging) and len(listeners(serving)) == 2)
        builds.go_on()
        assert builds.errors == []
        assert "sends no reports any more and is ended" in serving.log


def test_workers_end_with_the_supervisor(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as pids:
        os.kill(pids[0], signal.SIGSTOP)
        serving.process.kill()
        serving.process.wait()
        until(lambda: not any(map(lives, pids)))


def test_a_worker_that_dies_again_and_again_is_started_ever_more_slowly(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as (_, second), sdk(serving) as client:
        (farm.folder / "die").touch()
        os.kill(second, signal.SIGKILL)
        for deaths in range(1, 5):
            until(lambda: serving.log.count("ended with exit code 9") >= deaths)  # noqa: B023 - called here
        sign(client)
        (farm.folder / "die").unlink()
        until(lambda: len(listeners(serving)) == 2)
        delays = [float(text) for text in re.findall(r"it is started again in ([0-9.]+) s", serving.log)]
        assert delays[0] == 0.0
        assert all(delays[place + 1] > 1.3 * delays[place] for place in range(3))
        assert len((farm.folder / "opened").read_text().splitlines()) == len(delays) + 2


def test_a_refused_pin_is_not_tried_again(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as (first, second), sdk(serving) as client:
        (farm.folder / "refuse").touch()
        tries = farm.folder / "tries"
        killed = {second}
        os.kill(second, signal.SIGKILL)
        until(tries.exists)
        for _ in range(2):
            until(lambda: set(workers(serving)) - {first} - killed)
            sign(client)  # a worker that cannot serve the key takes no calls while another can
            (another,) = set(workers(serving)) - {first} - killed
            killed.add(another)
            os.kill(another, signal.SIGKILL)
        os.kill(first, signal.SIGKILL)
        until(lambda: reaped(first) and len(listeners(serving)) == 2)
        with pytest.raises(ServiceError) as caught:
            sign(client)
        assert caught.value.details.reason == "KEY_BLOCKED"
        assert len(tries.read_text().splitlines()) == 1
        assert serving.stop() == 0


def test_a_pin_that_is_refused_at_the_start_ends_it(farm: Place) -> None:
    (farm.folder / "refuse").touch()
    said = last_sentence(farm, 1)
    assert "key 'demo': PIN: the token 'diary' refused the PIN; correct it" in said
    assert len((farm.folder / "tries").read_text().splitlines()) == 1


def test_a_first_worker_that_dies_ends_the_start(farm: Place) -> None:
    (farm.folder / "die").touch()
    said = last_sentence(farm, 70)
    assert "the first worker ended with exit code 9 before it could serve" in said


def test_a_stop_is_told_first(farm: Place) -> None:
    configure(farm, workers=2, drain_wait_s=2, delay_s=0.3)
    with farm.serving() as serving, all_listening(serving), serving.channel() as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        serving.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Balancers have not turned away yet: calls still come, over old connections and new ones.
        calls = [SigningServiceStub(channel).SignChecksum.future(SIGN, timeout=60)]
        with serving.channel() as new:
            assert len(SigningServiceStub(new).SignChecksum(SIGN, timeout=60).signature) == 256
        assert len(calls[0].result().signature) == 256
        assert serving.process.wait(200) == 0


def test_a_reload_changes_the_number_of_workers(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as before:
        cores = [(farm.folder / f"cores-{pid}").read_text() for pid in before]
        assert cores == [str(max(1, core_count() // 2))] * 2
        with Builds(serving, 2) as builds:
            for number in (3, 1, 2):
                configure(farm, workers=number)
                serving.process.send_signal(signal.SIGHUP)
                until(lambda: len(listeners(serving)) == number == len(workers(serving)))  # noqa: B023 - called here
                shares = [farm.folder / f"share-{pid}" for pid in workers(serving)]
                until(lambda: [each.read_text() for each in shares] == [str(number)] * number)  # noqa: B023 - as above
            assert workers(serving)[0] == before[0]
            farm.config.write_text("[server]\nworkers = many\n")
            serving.process.send_signal(signal.SIGHUP)
            until(lambda: "the configuration stays as it was" in serving.log)
            builds.go_on()
        assert builds.errors == []
        assert serving.stop() == 0


def test_a_worker_that_is_too_many_by_the_time_that_its_turn_comes(farm: Place) -> None:
    """Workers start one after another: the second is at it, and the third waits, when one is enough again."""
    configure(farm, workers=1)
    with farm.serving() as serving, all_listening(serving, 1) as first:
        (farm.folder / "wait").touch()
        for number, children in ((3, 2), (1, 1)):
            configure(farm, workers=number)
            serving.process.send_signal(signal.SIGHUP)
            until(lambda: len(workers(serving)) == children)  # noqa: B023 - called here
        (farm.folder / "wait").unlink()
        configure(farm, workers=2)
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: len(listeners(serving)) == 2)
        assert len(workers(serving)) == 2
        assert workers(serving)[0] == first[0]
        assert len((farm.folder / "opened").read_text().splitlines()) == 3
        assert serving.stop() == 0
        assert "did not end in" not in serving.log


def test_nothing_of_the_configuration_is_in_a_command_line(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as pids:
        for pid in pids:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            assert words[3].isdigit()
            assert words[4].isdigit()
            assert words[5] == str(serving.process.pid).encode()
            assert words[6].startswith(b"privyseal-server worker ")
            assert not [word for word in words if b"software:" in word or str(farm.folder).encode() in word]


def test_another_service_does_not_take_the_port_unasked(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving):
        farm.config.write_text(farm.config.read_text().replace("127.0.0.1:0", serving.address))
        assert "is it taken" in last_sentence(farm, 2)


def test_pinned_workers_have_a_core_each_and_longer_turns(farm: Place) -> None:
    configure(farm, workers=2, pin_workers=True)
    with farm.serving() as serving, all_listening(serving) as pids, sdk(serving) as client:
        cores = sorted(os.sched_getaffinity(serving.process.pid))
        assert [os.sched_getaffinity(pid) for pid in pids] == [{cores[0]}, {cores[1 % len(cores)]}]
        assert [os.sched_getscheduler(pid) for pid in pids] == [os.SCHED_BATCH] * 2
        sign(client)


SECOND = KEY.replace('"demo"', '"second"', 1)


def changed(farm: Place, key: str) -> None:
    """Freeze `demo` and add a key, in one change of the configuration."""
    text = farm.config.read_text()
    farm.config.write_text(text.replace(KEY, f'{KEY}state = "frozen"\n{key}'))


def test_a_key_that_one_worker_alone_cannot_open_changes_nothing_in_any(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving) as (_, second), Builds(serving) as builds:
        (farm.folder / f"without-{second}").touch()
        changed(farm, SECOND)
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: "stays as it was: key 'second': object: there is no such key in the diary" in serving.log)
        builds.go_on()
        assert builds.errors == []
        (farm.folder / f"without-{second}").unlink()
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: builds.errors)
        assert isinstance(builds.errors[0], ServiceError)
        assert builds.errors[0].details.reason == "KEY_FROZEN"


def test_a_new_keys_pin_that_is_refused_is_tried_by_one_worker_alone(farm: Place) -> None:
    with farm.serving() as serving, all_listening(serving), sdk(serving) as client:
        (farm.folder / "refuse").touch()
        changed(farm, SECOND)
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: "stays as it was: key 'second': PIN: the token 'diary' refused the PIN" in serving.log)
        assert len((farm.folder / "tries").read_text().splitlines()) == 1
        sign(client)


def test_a_worker_that_starts_while_the_configuration_changes_serves_the_new_one(farm: Place) -> None:
    """From its first call on; and the change does not wait for it."""
    with farm.serving() as serving, all_listening(serving) as (first, second):
        (farm.folder / "wait").touch()
        os.kill(second, signal.SIGKILL)
        until(lambda: len((farm.folder / "opened").read_text().splitlines()) == 3)
        changed(farm, "")
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: "the configuration was reloaded" in serving.log)
        (starting,) = set(workers(serving)) - {first}
        (farm.folder / "wait").unlink()
        until(lambda: len(listeners(serving)) == 2)
        for _ in range(8):
            with pytest.raises(ServiceError) as caught, sdk(serving) as client:
                sign(client)
            assert caught.value.details.reason == "KEY_FROZEN"
        assert workers(serving) == [first, starting]
