"""AWS sessions and clients: whose credentials, which endpoint, and how long a socket may wait."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, RefreshableCredentials
from botocore.loaders import Loader, create_loader

from privyseal_backends.aws_kms.address import Connection, check_endpoint, is_fips_endpoint
from privyseal_backends.aws_kms.settings import Settings
from privyseal_backends.interface import OperatorError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_sts import STSClient

ROLE_SESSION_NAME = "privyseal"
"""How CloudTrail names the service where it assumes a role."""

_TIERS = 3
_TIER_RATIO = 3.0


def silence_secrets() -> None:
    """Keep what boto3 logs of credentials and answers from every log. It may be called again and again.

    Its debug records hold session tokens, and answers as they came; its warnings of a failed refresh quote the error,
    which may quote the request or what a credential process wrote.
    """
    for name in ("boto3", "botocore"):
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
    for name in ("botocore.credentials", "botocore.tokens"):
        logging.getLogger(name).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


@functools.lru_cache(maxsize=4)
def _data_of(search_path: str | None) -> Loader:
    """The data files of botocore, parsed once for all sessions: some 50 ms each otherwise."""
    return create_loader(search_path)


def _core_session(connection: Connection) -> botocore.session.Session:
    core = botocore.session.Session(profile=connection.profile or None)
    core.register_component("data_loader", _data_of(core.get_config_variable("data_path")))
    return core


@dataclass(frozen=True)
class Clients:
    """KMS clients that differ only in their timeouts, and what is true of all.

    `tiers` are (seconds that a read may take, client), shortest first. `account` is whose quota calls count against,
    12 digits; empty when it was not asked for.
    """

    tiers: tuple[tuple[float, KMSClient], ...]
    region: str
    endpoint: str
    account: str

    def for_remaining(self, remaining_s: float) -> KMSClient:
        """The client whose timeout outlives `remaining_s` by the least: none cuts an attempt short that the caller
        would still wait for, and a thread whose caller left is free soon after."""
        for read_timeout_s, client in self.tiers:
            if read_timeout_s >= remaining_s:
                return client
        return self.tiers[-1][1]

    def close(self) -> None:
        """Close the idle TLS connections."""
        for _, client in self.tiers:
            client.close()


def make_clients(connection: Connection, settings: Settings) -> Clients:
    """Blocking: reads the AWS configuration, resolves the credentials, and asks STS where a role or a quota needs it.

    Raises `OperatorError`, or what boto3 raises.
    """
    session = _session(connection, settings)
    if not session.region_name:
        raise OperatorError("configuration", "no AWS Region is configured for the key", "write ?region= in its URI")
    read_timeouts_s = [settings.read_timeout_s / _TIER_RATIO**tier for tier in reversed(range(_TIERS))]
    tiers = tuple((read_s, _kms_client(session, connection, settings, read_s)) for read_s in read_timeouts_s)
    endpoint = tiers[0][1].meta.endpoint_url
    check_endpoint(endpoint, "AWS KMS")
    if connection.fips and not is_fips_endpoint(endpoint):
        raise OperatorError(
            "endpoint", "FIPS is asked for and the endpoint is not a FIPS one", "leave endpoint out, or name kms-fips"
        )
    account = _account(session, connection, settings) if settings.quota_per_s else ""
    return Clients(tiers, session.region_name, endpoint, account)


def _session(connection: Connection, settings: Settings) -> boto3.Session:
    core = _core_session(connection)
    if "mfa_serial" in core.get_scoped_config():  # botocore would ask for it on the terminal
        raise OperatorError("credentials", "the AWS profile asks for a second factor", "name one that does not")
    base = boto3.Session(botocore_session=core, region_name=connection.region or None)
    if not connection.role:
        return base
    core = _core_session(connection)
    provider = AssumedRole(_sts_client(base, connection, settings), connection.role)
    # Only the role: no other credentials that are found may stand in for it.
    core.register_component("credential_provider", CredentialResolver([provider]))
    return boto3.Session(botocore_session=core, region_name=connection.region or None)


class AssumedRole(CredentialProvider):
    """Credentials of a role, assumed again before they expire."""

    METHOD = "privyseal-role"

    def __init__(self, sts: STSClient, role: str) -> None:
        super().__init__()
        self._sts = sts
        self._role = role

    def load(self) -> RefreshableCredentials:
        """Assume the role; botocore calls this once, and the refresh whenever less than 15 minutes are left."""
        return RefreshableCredentials.create_from_metadata(self._assume(), self._assume, self.METHOD)

    def _assume(self) -> dict[str, Any]:
        answer = self._sts.assume_role(RoleArn=self._role, RoleSessionName=ROLE_SESSION_NAME)["Credentials"]
        return {
            "access_key": answer["AccessKeyId"],
            "secret_key": answer["SecretAccessKey"],
            "token": answer["SessionToken"],
            "expiry_time": answer["Expiration"].isoformat(),
        }


def _config(settings: Settings, read_timeout_s: float, *, fips: bool | None) -> Config:
    """One attempt: the retries are ours, since botocore's do not know the caller's deadline."""
    return Config(
        connect_timeout=min(settings.connect_timeout_s, read_timeout_s),
        read_timeout=read_timeout_s,
        max_pool_connections=settings.connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        use_fips_endpoint=fips,
        tcp_keepalive=True,
    )


def _kms_client(session: boto3.Session, connection: Connection, settings: Settings, read_timeout_s: float) -> KMSClient:
    # botocore takes no endpoint together with FIPS; whether this one is FIPS is checked by its name.
    config = _config(settings, read_timeout_s, fips=False if connection.endpoint else connection.fips)
    return session.client("kms", endpoint_url=connection.endpoint or None, config=config)


def _sts_client(session: boto3.Session, connection: Connection, settings: Settings) -> STSClient:
    config = _config(settings, settings.read_timeout_s, fips=False if connection.sts_endpoint else connection.fips)
    client = session.client("sts", endpoint_url=connection.sts_endpoint or None, config=config)
    check_endpoint(client.meta.endpoint_url, "AWS STS")
    return client


def _account(session: boto3.Session, connection: Connection, settings: Settings) -> str:
    """Whose quota the calls count against: the caller's account, whoever owns the key (AWS KMS Developer Guide,
    request quotas)."""
    if connection.role:
        return connection.role.split(":")[4]
    credentials = session.get_credentials()
    known = credentials.get_frozen_credentials().account_id if credentials else None
    return known or _sts_client(session, connection, settings).get_caller_identity()["Account"]
