"""From what boto3 raises to the one error taxonomy, in fixed words.

AWS's own texts never get through: that of a refused signature quotes the request's headers, the session token among
them. The code, and the request id that AWS support asks for, are enough to find out more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    IntegrityError,
    OperatorError,
    UnavailableError,
)

_THROTTLED = frozenset(
    {
        "ThrottlingException",  # not modelled by the SDK: KMS sends it all the same
        "Throttling",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
    }
)

_AWAY = frozenset(
    {
        "KMSInternalException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
    }
)

BAD_CIPHERTEXT = ("ciphertext", "the wrapped key cannot be opened with this key", "wrap it again for this key")
"""The one sentence for every ciphertext that does not open: what is wrong with it would only help an attacker."""

_BAD_CIPHERTEXTS = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})

_UNFIT = frozenset({"InvalidKeyUsageException", "UnsupportedOperationException", "ValidationException"})

_OPERATOR: Mapping[str, tuple[str, str, str]] = {
    "NotFoundException": (
        "key",
        "AWS KMS has no key {key} in that account and Region",
        "check the ARN or alias and the Region",
    ),
    "InvalidArnException": ("key", "AWS KMS does not take {key} as a key", "check the ARN or alias"),
    "DisabledException": (
        "key",
        "the AWS KMS key {key} is disabled",
        "enable it with aws kms enable-key, or name another key",
    ),
    "KMSInvalidStateException": (
        "key",
        "the AWS KMS key {key} is in a state that allows no use",
        "look at its KeyState: cancel its deletion, import its material or connect its key store",
    ),
    "AccessDeniedException": (
        "permission",
        "the credentials may not call {operation} on {key}",
        "allow kms:{operation} on the key's ARN in the key policy or in an IAM policy",
    ),
    "RequestExpired": ("clock", "AWS refused a request as out of date", "set this machine's clock"),
    "RequestTimeTooSkewed": ("clock", "AWS refused a request as out of date", "set this machine's clock"),
}

_CREDENTIALS_REFUSED: Mapping[str, tuple[str, str, str]] = dict.fromkeys(
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ),
    ("credentials", "AWS does not accept the credentials ({code})", "renew them, and check this machine's clock"),
)

_STS_REFUSED = (
    "credentials",
    "AWS STS refused {operation} ({code})",
    "check the role's ARN, its trust policy and the credentials that assume it",
)


def classify(error: Exception, key: str) -> BackendError:
    """The taxonomy's error for what a call on `key` raised.

    `BusyError` and `UnavailableError` are worth another attempt, the others are not.
    """
    if isinstance(error, BackendError):
        return error
    if isinstance(error, aws.ClientError):
        return _answered(error, key)
    for types, make in _LOCAL:
        if isinstance(error, types):
            return make(error)
    # What nobody foresaw must fail only its own call, and must not be tried again.
    return IntegrityError(
        "answer",
        f"a call to AWS KMS ended in an error that is not known ({type(error).__name__})",
        "check that boto3 is the version that was tested",
    )


def _answered(error: aws.ClientError, key: str) -> BackendError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    metadata = error.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    operation = error.operation_name
    request = f" (AWS request {metadata['RequestId']})" if metadata.get("RequestId") else ""
    if code in _THROTTLED or status == 429:
        return BusyError("quota", f"AWS throttles {operation}{request}", "ask again later, or have the quota raised")
    if code in _AWAY or status >= 500:
        return UnavailableError("network", f"AWS answered {operation} with {_name(code, status)}{request}")
    if operation == "Decrypt" and code in _BAD_CIPHERTEXTS:
        return CallerError(*BAD_CIPHERTEXT)
    if code in _UNFIT:
        return CallerError("key", f"AWS KMS refused {operation} on {key} as unfit for it ({code}){request}")
    sts = operation in {"AssumeRole", "GetCallerIdentity"}
    known = _CREDENTIALS_REFUSED.get(code) or (_STS_REFUSED if sts else _OPERATOR.get(code))
    part, message, remedy = known or ("service", "AWS refused {operation} on {key} with {code}", "look the code up")
    words = {"operation": operation, "key": key, "code": _name(code, status)}
    return OperatorError(part, message.format(**words) + request, remedy.format(**words))


def _name(code: str, status: int) -> str:
    """The code where it looks like one; anything else could hold anything."""
    return code if code.isalnum() and len(code) <= 64 else f"HTTP status {status}"


def _away(error: Exception) -> BackendError:
    return UnavailableError("network", f"AWS could not be reached or did not answer ({type(error).__name__})")


def _tls(error: Exception) -> BackendError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return OperatorError(
            "TLS",
            "the endpoint's certificate is not one that this machine trusts",
            "check the endpoint, or name the CA bundle in AWS_CA_BUNDLE",
        )
    return _away(error)


def _no_credentials(_: Exception) -> BackendError:
    return OperatorError(
        "credentials",
        "there are no AWS credentials",
        "give the service a role, a profile or the variables of the AWS SDK",
    )


def _bad_credentials(error: Exception) -> BackendError:
    return OperatorError(
        "credentials",
        f"the AWS credentials could not be had ({type(error).__name__})",
        "check the profile, the role and where the credentials come from",
    )


def _bad_configuration(error: Exception) -> BackendError:
    return OperatorError(
        "configuration",
        f"the AWS configuration cannot be used ({type(error).__name__})",
        "check the profile, the Region and the AWS configuration file",
    )


_LOCAL: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Callable[[Exception], BackendError]], ...] = (
    (aws.SSLError, _tls),
    (
        (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, ResponseParserError, TimeoutError),
        _away,
    ),
    (aws.NoCredentialsError, _no_credentials),
    (
        (
            aws.CredentialRetrievalError,
            aws.PartialCredentialsError,
            aws.TokenRetrievalError,
            aws.SSOError,
            aws.RefreshWithMFAUnsupportedError,
            aws.UnknownCredentialError,
            aws.InfiniteLoopConfigError,
            aws.UnauthorizedSSOTokenError,
        ),
        _bad_credentials,
    ),
    (aws.BotoCoreError, _bad_configuration),
)
