"""Where a key is and whose credentials use it: the `awskms:` URI, read without any I/O."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from privyseal_backends.interface import CallerError, OperatorError

_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+", re.ASCII)
_PROFILE = re.compile(r"[^\x00-\x1f\x7f]+")
_KEY_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}"
_ALIAS = r"alias/[A-Za-z0-9/_-]+"
_ARN = re.compile(rf"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{{12}}):(key/({_KEY_ID})|{_ALIAS})")
_SHORT = re.compile(rf"{_KEY_ID}|{_ALIAS}")

# The DNS suffixes of AWS's partitions, the second of each pair for dual stack, as botocore's partitions.json has them.
_SUFFIXES = (
    *("amazonaws.com", "api.aws"),
    *("amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    *("amazonaws.eu", "api.amazonwebservices.eu"),
    *("c2s.ic.gov", "api.aws.ic.gov"),
    *("sc2s.sgov.gov", "api.aws.scloud"),
    *("cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    *("csp.hci.ic.gov", "api.aws.hci.ic.gov"),
)
_AWS_HOST = re.compile(
    r"(kms(-fips)?\.[a-z0-9-]+|vpce-[a-z0-9-]+\.kms(-fips)?\.[a-z0-9-]+\.vpce)"
    rf"\.({'|'.join(map(re.escape, _SUFFIXES))})"
)

EXAMPLE = "awskms:///alias/NAME?region=eu-west-1, or awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID"


@dataclass(frozen=True)
class Connection:
    """Where calls go and as whom. An empty text leaves the choice to the AWS configuration of the process.

    `fips` None does so too. Keys with an equal connection share clients, threads and TLS connections.
    """

    region: str = ""
    endpoint: str = ""
    sts_endpoint: str = ""
    profile: str = ""
    role: str = ""
    fips: bool | None = None


@dataclass(frozen=True)
class KeyAddress:
    """A key's URI, read: `key_id` is a key ARN, an alias ARN, an alias (`alias/NAME`) or a key id."""

    key_id: str
    connection: Connection

    def names(self, arn: str, region: str) -> bool:
        """Whether the key ARN `arn`, an answer of AWS KMS in `region`, can be what this address means."""
        wanted, found = _ARN.fullmatch(self.key_id), _ARN.fullmatch(arn)
        if found is None or ":key/" not in arn or found["region"] != region:
            return False
        if wanted is not None:
            where = self.key_id.rpartition(":")[0] == arn.rpartition(":")[0]
            return where and (":alias/" in self.key_id or self.key_id == arn)
        return self.key_id.startswith("alias/") or arn.endswith(f":key/{self.key_id}")


def endpoint_fault(url: str) -> str:
    """What is wrong with an endpoint, as the end of a sentence; empty when it can be used.

    Plain http is for loopback only: an unencrypted request carries session tokens, and an answer recovered keys.
    """
    if not (url.isascii() and url.isprintable()) or " " in url:  # urlsplit would drop some of these
        return "holds characters that no URL has"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "has a port or an address that is not one"
    faults = (
        (parts.scheme not in {"http", "https"} or not host or port == 0, "is not https://HOST or https://HOST:PORT"),
        ("@" in parts.netloc, "holds a user name or a password"),
        (bool(parts.query or parts.fragment) or parts.path not in {"", "/"}, "holds more than a host and a port"),
        (parts.scheme == "http" and not _is_loopback(host or ""), "is plain http, which is for loopback only"),
    )
    return next((text for wrong, text in faults if wrong), "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_fips_endpoint(url: str) -> bool:
    """Whether an endpoint's name is one of AWS KMS's FIPS endpoints (`kms-fips`)."""
    return "kms-fips" in (urlsplit(url).hostname or "").split(".")


def is_aws_endpoint(url: str) -> bool:
    """Whether an endpoint is AWS KMS's own, by TLS and a name that only AWS holds; a VPC endpoint's name is one.

    Other names under the same domains are customers' (load balancers, virtual machines) and prove nothing.
    """
    parts = urlsplit(url)
    return parts.scheme == "https" and _AWS_HOST.fullmatch(parts.hostname or "") is not None


def _refuse_uri(message: str, remedy: str = f"write {EXAMPLE}") -> NoReturn:
    raise CallerError("URI", message, remedy)


def _unquote(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        _refuse_uri("a percent-encoding in an awskms URI is not UTF-8")


def parse_uri(uri: str, defaults: Connection) -> KeyAddress:
    """Read `awskms:///KEY?region=…&endpoint=…&sts_endpoint=…&profile=…&role=…&fips=true|false`.

    What the URI says wins over the settings. Raises `CallerError` for anything else than that form; the sentence never
    repeats a value of the query.
    """
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "awskms":
        _refuse_uri("this is not an awskms URI")
    if "#" in rest:
        _refuse_uri("an awskms URI has no fragment")
    path, _, query = rest.partition("?")
    if not path.startswith("///"):
        _refuse_uri("an awskms URI has three slashes before the key; an endpoint is a field of its query")
    key_id = _unquote(path[3:])
    arn = _ARN.fullmatch(key_id)
    if arn is None and not _SHORT.fullmatch(key_id):
        _refuse_uri("an awskms URI names a key by its ARN, its alias (alias/NAME) or its id")
    fields = _read_query(query)
    region = arn["region"] if arn else ""
    if region and fields.get("region", region) != region:
        _refuse_uri("the region in the query is not the one in the ARN", "leave the query's region out")
    connection = Connection(
        region=region or fields.get("region", defaults.region),
        endpoint=fields.get("endpoint", defaults.endpoint),
        sts_endpoint=fields.get("sts_endpoint", defaults.sts_endpoint),
        profile=fields.get("profile", defaults.profile),
        role=fields.get("role", defaults.role),
        fips=fields["fips"] == "true" if "fips" in fields else defaults.fips,
    )
    return KeyAddress(key_id, connection)


def _read_query(query: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        name, value = _unquote(name), _unquote(value)
        if name not in FIELDS:
            _refuse_uri("an awskms URI has a query field that is not known", f"known are {', '.join(FIELDS)}")
        if name in fields:
            _refuse_uri(f"an awskms URI gives {name} twice", "give it once")
        fault = FIELDS[name](value) if equals else "is empty"
        if fault:
            _refuse_uri(f"{name} in an awskms URI {fault}", "mend it, or leave it out")
        fields[name] = value
    return fields


def _region_fault(value: str) -> str:
    return "" if _REGION.fullmatch(value) else "is not the name of a Region, as eu-west-1"


def _role_fault(value: str) -> str:
    return "" if _ROLE.fullmatch(value) else "is not the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME"


def _profile_fault(value: str) -> str:
    return "" if _PROFILE.fullmatch(value) else "is not the name of a profile"


def _fips_fault(value: str) -> str:
    return "" if value in {"true", "false"} else "is not true or false"


FIELDS = {
    "region": _region_fault,
    "endpoint": endpoint_fault,
    "sts_endpoint": endpoint_fault,
    "profile": _profile_fault,
    "role": _role_fault,
    "fips": _fips_fault,
}

NUMBERS = {
    "connect_timeout_s": (0.05, 60.0),
    "read_timeout_s": (0.05, 60.0),
    "open_timeout_s": (0.05, 600.0),
    "quota_per_s": (0.1, 1_000_000.0),
}
COUNTS = {"connections": (1, 512), "group_connections": (1, 512)}
FLAGS = ("fips", "probe")


def check_endpoint(url: str, what: str) -> None:
    """Raise `OperatorError` when the endpoint that the AWS configuration led to cannot be used; `what` names it."""
    fault = endpoint_fault(url)
    if fault:
        raise OperatorError("endpoint", f"the endpoint for {what} {fault}", "mend AWS_ENDPOINT_URL or the profile")
