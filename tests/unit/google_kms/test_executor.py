"""Attempts around one call: how far apart, how many, and never past the deadline."""

from __future__ import annotations

import asyncio
import math
import random
import time

import grpc
import pytest
from google.api_core import exceptions
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from privyseal_backends.google_kms import executor
from privyseal_backends.google_kms.concurrency_limit import ConcurrencyLimit
from privyseal_backends.google_kms.errors import Verb, integrity
from privyseal_backends.google_kms.executor import Executor
from privyseal_backends.interface import BusyError, DeadlineError, IntegrityError, OperatorError, UnavailableError
from privyseal_backends.quota import Quota


class Clock:
    """Time that passes only in sleeps and in calls; every random pause is as long as it may be."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        self.sleeps: list[float] = []
        self.timeouts: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(random, "uniform", lambda _, longest_s: longest_s)
        monkeypatch.setattr(executor.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now_s += seconds

    def call(self, outcomes, seconds, *, takes_s=0.0, attempt_timeout_s=5.0, bucket=None, verb=Verb.SIGN):
        """Call with what each attempt meets; the answer `value` is good."""
        remaining = iter(outcomes)

        async def send(timeout_s):
            self.timeouts.append(timeout_s)
            self.now_s += min(takes_s, timeout_s)
            met = next(remaining)
            if isinstance(met, Exception) and not isinstance(met, IntegrityError):
                raise met
            return met

        def check(answer):
            if isinstance(answer, IntegrityError):
                raise answer
            return answer

        caller = Executor(ConcurrencyLimit(1), attempt_timeout_s, bucket)
        return asyncio.run(caller.call(verb, send, check, self.now_s + seconds))


@pytest.fixture
def clock(monkeypatch):
    # The loop itself must not stand still, so it is made before time is.
    return Clock(monkeypatch)


def error(code, **fields):
    return exceptions.from_grpc_status(code, "words", **fields)


AWAY = error(grpc.StatusCode.UNAVAILABLE)
BUSY = error(grpc.StatusCode.RESOURCE_EXHAUSTED)
LATE = error(grpc.StatusCode.DEADLINE_EXCEEDED)
UNTRUE = integrity("a test says so")


def test_a_configured_quota_is_kept_to_by_every_attempt(clock):
    bucket = Quota(2.0)
    answer = clock.call([AWAY, "value"], 10, bucket=bucket)
    assert (answer.value, clock.sleeps) == ("value", [0.0, 0.05, pytest.approx(0.45)])
    assert answer.queued_s == pytest.approx(0.45)
    clock.call(["version"], 0.1, bucket=bucket, verb=Verb.GET_VERSION)
    with pytest.raises(BusyError, match="quota"):
        clock.call([], 0.1, bucket=bucket)


def test_a_quota_that_leaves_no_other_attempt_tells_what_was_met(clock):
    with pytest.raises(UnavailableError):
        clock.call([AWAY], 0.3, bucket=Quota(2.0))


def test_pauses_double_up_to_a_bound(clock):
    clock.call([AWAY] * 9 + ["value"], math.inf)
    assert clock.sleeps == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_no_pause_ends_after_the_deadline(clock):
    with pytest.raises(UnavailableError):
        clock.call([AWAY] * 99, 2.0)
    assert clock.now_s < 1002.0


def test_a_pause_leaves_room_for_the_attempt(clock):
    assert clock.call([AWAY, AWAY, "value"], 0.12).value == "value"
    assert clock.now_s < 1000.12
    assert clock.timeouts[-1] > 0


def test_each_attempt_gets_what_is_left_at_the_most(clock):
    clock.call([AWAY, AWAY, "value"], 2.0, takes_s=0.5, attempt_timeout_s=1.0)
    assert clock.timeouts[0] == 1.0
    assert clock.timeouts[-1] == pytest.approx(2.0 - 2 * 0.5 - 0.05 - 0.1)


def test_an_untrue_answer_is_asked_for_three_more_times_without_long_pauses(clock):
    with pytest.raises(IntegrityError):
        clock.call([UNTRUE] * 9, math.inf)
    assert len(clock.timeouts) == 4
    assert max(clock.sleeps) <= 0.05


def test_untrue_answers_are_counted_apart_from_those_that_never_came(clock):
    outcomes = [UNTRUE, AWAY, UNTRUE, BUSY, UNTRUE, AWAY, "value"]
    assert clock.call(outcomes, math.inf).value == "value"


def test_googles_wait_comes_before_the_jitter(clock):
    asked = error(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[RetryInfo(retry_delay=Duration(seconds=2))])
    clock.call([asked, "value"], math.inf)
    assert clock.sleeps == [2.05]


def test_a_wait_beyond_the_deadline_ends_it_at_once(clock):
    asked = error(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[RetryInfo(retry_delay=Duration(seconds=2))])
    with pytest.raises(BusyError) as met:
        clock.call([asked], 1.0)
    assert met.value.retry_after_s == 2.0
    assert clock.sleeps == []


def test_time_that_ran_out_is_a_deadline(clock):
    with pytest.raises(DeadlineError):
        clock.call([LATE] * 9, 1.0, takes_s=5.0)
    assert len(clock.timeouts) == 1


@pytest.mark.parametrize(("before", "kind"), [(BUSY, BusyError), (AWAY, UnavailableError), (UNTRUE, IntegrityError)])
def test_what_was_met_before_time_ran_out_says_more(clock, before, kind):
    with pytest.raises(kind):
        clock.call([before, LATE], 1.0, takes_s=0.6)


def test_what_a_person_must_mend_is_met_once(clock):
    with pytest.raises(OperatorError):
        clock.call([error(grpc.StatusCode.PERMISSION_DENIED)], math.inf)
    assert clock.sleeps == []


def test_seconds_in_the_store_are_those_of_all_attempts(clock):
    assert clock.call([AWAY, "value"], math.inf, takes_s=0.25).store_s == 0.5


def test_a_place_is_given_back_after_every_attempt(clock):
    slots = ConcurrencyLimit(1)
    caller = Executor(slots, 5.0)

    async def send(_):
        raise error(grpc.StatusCode.PERMISSION_DENIED)

    async def twice():
        for _ in range(2):
            with pytest.raises(OperatorError):
                await caller.call(Verb.SIGN, send, lambda answer: answer, math.inf)

    asyncio.run(twice())
