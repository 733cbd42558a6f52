"""Every status of gRPC, and what it is to a caller."""

import grpc
import pytest
from google.api_core import exceptions
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from privyseal_backends.google_kms.errors import Again, Verb, failure
from privyseal_backends.interface import (
    BusyError,
    CallerError,
    DeadlineError,
    IntegrityError,
    OperatorError,
    UnavailableError,
)

C = grpc.StatusCode


def error(code, message="what Google said", details=()):
    made = exceptions.from_grpc_status(code, message, details=details)
    assert made.grpc_status_code is code
    return made


@pytest.mark.parametrize(
    ("code", "kind", "again", "part"),
    [
        (C.PERMISSION_DENIED, OperatorError, Again.NEVER, "permission"),
        (C.UNAUTHENTICATED, OperatorError, Again.NEVER, "credentials"),
        (C.NOT_FOUND, OperatorError, Again.NEVER, "key"),
        (C.UNIMPLEMENTED, OperatorError, Again.NEVER, "endpoint"),
        (C.FAILED_PRECONDITION, OperatorError, Again.NEVER, "key"),
        (C.OUT_OF_RANGE, OperatorError, Again.NEVER, "key"),
        (C.INVALID_ARGUMENT, CallerError, Again.NEVER, "request"),
        (C.DATA_LOSS, IntegrityError, Again.A_FEW_TIMES, "answer"),
        (C.RESOURCE_EXHAUSTED, BusyError, Again.UNTIL_THE_DEADLINE, "quota"),
        (C.DEADLINE_EXCEEDED, DeadlineError, Again.UNTIL_THE_DEADLINE, "deadline"),
        (C.UNAVAILABLE, UnavailableError, Again.UNTIL_THE_DEADLINE, "network"),
        (C.INTERNAL, UnavailableError, Again.UNTIL_THE_DEADLINE, "network"),
        (C.ABORTED, UnavailableError, Again.UNTIL_THE_DEADLINE, "network"),
        (C.CANCELLED, UnavailableError, Again.UNTIL_THE_DEADLINE, "network"),
        (C.UNKNOWN, UnavailableError, Again.UNTIL_THE_DEADLINE, "network"),
        (C.ALREADY_EXISTS, UnavailableError, Again.UNTIL_THE_DEADLINE, "network"),
    ],
)
@pytest.mark.parametrize("verb", [Verb.SIGN, Verb.GET_VERSION])
def test_statuses(code, kind, again, part, verb):
    met = failure(verb, error(code))
    assert type(met.error) is kind
    assert met.again is again
    assert met.error.part == part
    assert met.error.remedy


def test_every_status_is_in_the_table_above():
    assert len(C) == 17  # with OK; a new one needs a row


@pytest.mark.parametrize("verb", Verb)
def test_a_missing_permission_names_the_role(verb):
    met = failure(verb, error(C.PERMISSION_DENIED, "Permission 'x' denied on resource 'y' (or it may not exist)."))
    assert verb.value in met.error.remedy
    assert "Permission 'x' denied" in met.error.message


def test_a_raw_key_needs_a_second_role():
    assert "expertRawPKCS1" in failure(Verb.SIGN_RAW, error(C.PERMISSION_DENIED)).error.remedy


@pytest.mark.parametrize(
    "message",
    ["The checksum in field data_crc32c did not match the data in field data.", "invalid digest CRC32C"],
)
@pytest.mark.parametrize("verb", [Verb.SIGN, Verb.DECRYPT])
def test_a_request_changed_on_its_way_is_tried_again(verb, message):
    met = failure(verb, error(C.INVALID_ARGUMENT, message))
    assert type(met.error) is IntegrityError
    assert met.again is Again.A_FEW_TIMES


def test_a_ciphertext_that_does_not_decrypt_gets_one_sentence_whatever_google_says():
    said = {str(failure(Verb.DECRYPT, error(C.INVALID_ARGUMENT, words)).error) for words in ("a", "bad padding", "")}
    assert len(said) == 1
    assert "padding" not in said.pop()


def test_googles_wait_is_heard():
    wait = RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))
    met = failure(Verb.SIGN, error(C.RESOURCE_EXHAUSTED, details=[ErrorInfo(reason="RATE"), wait]))
    assert met.pause_s == 2.5
    assert isinstance(met.error, BusyError)
    assert met.error.retry_after_s == 2.5


def test_what_the_tokens_issuer_said_is_not_passed_on():
    words = "Getting metadata from plugin failed with error: ('invalid_grant: Bad', {'refresh_token': 'ya29.secret'})"
    met = failure(Verb.SIGN, error(C.UNAVAILABLE, words))
    assert type(met.error) is UnavailableError
    assert met.error.part == "credentials"
    assert "secret" not in str(met.error)


@pytest.mark.parametrize("code", [C.INVALID_ARGUMENT, C.INTERNAL, C.UNAVAILABLE, C.UNAUTHENTICATED, C.UNKNOWN])
def test_words_that_may_quote_the_input_are_not_passed_on(code):
    assert "quoted" not in str(failure(Verb.SIGN, error(code, "quoted input")).error)


def test_long_words_are_cut_and_kept_on_one_line():
    met = failure(Verb.SIGN, error(C.NOT_FOUND, "line\nline " + "x" * 1000))
    assert "\n" not in met.error.message
    assert len(met.error.message) < 400
