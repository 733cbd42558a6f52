"""From what boto3 raises to the taxonomy."""

from __future__ import annotations

import pytest
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from privyseal_backends.aws_kms.errors import classify
from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    IntegrityError,
    OperatorError,
    UnavailableError,
)

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SECRET = "IQoJb3JpZ2luX2VjEJr-a-session-token"


def answered(code: str, status: int = 400, operation: str = "Sign") -> aws.ClientError:
    return aws.ClientError(
        {
            "Error": {"Code": code, "Message": f"The canonical string is x-amz-security-token:{SECRET}"},
            "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "request-1"},
        },
        operation,
    )


ANSWERS: list[tuple[str, int, type[BackendError], str]] = [
    ("ThrottlingException", 400, BusyError, "quota"),
    ("Throttling", 400, BusyError, "quota"),
    ("TooManyRequestsException", 429, BusyError, "quota"),
    ("SomethingElse", 429, BusyError, "quota"),
    ("KMSInternalException", 500, UnavailableError, "network"),
    ("DependencyTimeoutException", 503, UnavailableError, "network"),
    ("KeyUnavailableException", 500, UnavailableError, "network"),
    ("KeyUnavailableException", 400, UnavailableError, "network"),
    ("InternalFailure", 500, UnavailableError, "network"),
    ("502", 502, UnavailableError, "network"),
    ("", 504, UnavailableError, "network"),
    ("DisabledException", 400, OperatorError, "key"),
    ("KMSInvalidStateException", 400, OperatorError, "key"),
    ("NotFoundException", 400, OperatorError, "key"),
    ("InvalidArnException", 400, OperatorError, "key"),
    ("AccessDeniedException", 400, OperatorError, "permission"),
    ("ExpiredTokenException", 400, OperatorError, "credentials"),
    ("UnrecognizedClientException", 400, OperatorError, "credentials"),
    ("InvalidSignatureException", 400, OperatorError, "credentials"),
    ("RequestExpired", 400, OperatorError, "clock"),
    ("InvalidKeyUsageException", 400, CallerError, "key"),
    ("UnsupportedOperationException", 400, CallerError, "key"),
    ("ValidationException", 400, CallerError, "key"),
    ("InvalidCiphertextException", 400, OperatorError, "service"),  # of Decrypt alone a caller's error
    ("NobodyKnowsException", 400, OperatorError, "service"),
    (f"<b>{SECRET}</b>", 400, OperatorError, "service"),
]


@pytest.mark.parametrize(("code", "status", "kind", "part"), ANSWERS)
@pytest.mark.parametrize("operation", ["Sign", "Decrypt", "DescribeKey"])
def test_answers(code: str, status: int, kind: type[BackendError], part: str, operation: str) -> None:
    if operation == "Decrypt" and code == "InvalidCiphertextException":
        kind, part = CallerError, "ciphertext"
    error = classify(answered(code, status, operation), KEY)
    assert type(error) is kind
    assert error.part == part
    assert SECRET not in str(error)
    assert "{" not in str(error)


def test_an_error_names_the_request_and_what_to_do() -> None:
    error = classify(answered("AccessDeniedException"), KEY)
    assert str(error) == (
        f"permission: the credentials may not call Sign on {KEY} (AWS request request-1);"
        " allow kms:Sign on the key's ARN in the key policy or in an IAM policy"
    )


@pytest.mark.parametrize("code", ["InvalidCiphertextException", "IncorrectKeyException"])
def test_a_bad_ciphertext_is_one_sentence(code: str) -> None:
    assert str(classify(answered(code, operation="Decrypt"), KEY)) == (
        "ciphertext: the wrapped key cannot be opened with this key; wrap it again for this key"
    )


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, OperatorError),
        ("InvalidClientTokenId", 403, OperatorError),
        ("ExpiredToken", 403, OperatorError),
        ("RegionDisabledException", 403, OperatorError),
        ("Throttling", 400, BusyError),
        ("ServiceUnavailable", 503, UnavailableError),
    ],
)
def test_answers_of_sts(code: str, status: int, kind: type[BackendError]) -> None:
    error = classify(answered(code, status, "AssumeRole"), KEY)
    assert type(error) is kind
    assert (error.part == "credentials") == (kind is OperatorError)


@pytest.mark.parametrize(
    ("error", "kind", "part"),
    [
        (aws.EndpointConnectionError(endpoint_url="https://kms"), UnavailableError, "network"),
        (aws.ConnectTimeoutError(endpoint_url="https://kms"), UnavailableError, "network"),
        (aws.ReadTimeoutError(endpoint_url="https://kms"), UnavailableError, "network"),
        (aws.ConnectionClosedError(endpoint_url="https://kms"), UnavailableError, "network"),
        (aws.ProxyConnectionError(proxy_url="https://user:" + SECRET), UnavailableError, "network"),
        (aws.HTTPClientError(error=SECRET), UnavailableError, "network"),
        (ResponseParserError(SECRET), UnavailableError, "network"),
        (aws.SSLError(endpoint_url="https://kms", error="EOF occurred"), UnavailableError, "network"),
        (aws.SSLError(endpoint_url="https://kms", error="CERTIFICATE_VERIFY_FAILED"), OperatorError, "TLS"),
        (aws.NoCredentialsError(), OperatorError, "credentials"),
        (aws.PartialCredentialsError(provider="env", cred_var=SECRET), OperatorError, "credentials"),
        (aws.CredentialRetrievalError(provider="process", error_msg=SECRET), OperatorError, "credentials"),
        (aws.UnauthorizedSSOTokenError(), OperatorError, "credentials"),
        (aws.ProfileNotFound(profile="farm"), OperatorError, "configuration"),
        (aws.ConfigParseError(path=SECRET), OperatorError, "configuration"),
        (aws.NoRegionError(), OperatorError, "configuration"),
        (TypeError(SECRET), IntegrityError, "answer"),
    ],
)
def test_what_never_reached_aws(error: Exception, kind: type[BackendError], part: str) -> None:
    found = classify(error, KEY)
    assert type(found) is kind
    assert found.part == part
    assert SECRET not in str(found)


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = IntegrityError("answer", "it is not true")
    assert classify(error, KEY) is error
