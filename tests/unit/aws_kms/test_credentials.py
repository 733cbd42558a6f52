"""Credentials of an assumed role, without AWS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from privyseal_backends.aws_kms.credentials import AssumedRole, silence_secrets

ROLE = "arn:aws:iam::111122223333:role/signer"


def credentials(name: str, lifetime: timedelta) -> dict[str, object]:
    return {
        "Credentials": {
            "AccessKeyId": f"ASIA{name}",
            "SecretAccessKey": f"secret of {name}",
            "SessionToken": f"token of {name}",
            "Expiration": datetime.now(UTC) + lifetime,
        }
    }


def test_a_role_is_assumed_again_before_its_credentials_expire() -> None:
    sts = Mock()
    sts.assume_role.side_effect = [credentials("1", timedelta(minutes=5)), credentials("2", timedelta(hours=1))]
    loaded = AssumedRole(sts, ROLE).load()
    assert sts.assume_role.call_count == 1
    for _ in range(3):
        frozen = loaded.get_frozen_credentials()
        assert (frozen.access_key, frozen.secret_key, frozen.token) == ("ASIA2", "secret of 2", "token of 2")
    assert sts.assume_role.call_count == 2
    sts.assume_role.assert_called_with(RoleArn=ROLE, RoleSessionName="privyseal")


def test_no_repr_shows_credentials() -> None:
    sts = Mock()
    sts.assume_role.return_value = credentials("1", timedelta(hours=1))
    provider = AssumedRole(sts, ROLE)
    assert "secret" not in repr(provider) + repr(provider.load())


def test_a_refresh_that_fails_keeps_the_credentials_and_its_warning_quotes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        silence_secrets()
    told = {"Error": {"Code": "SignatureDoesNotMatch", "Message": "x-amz-security-token:the-token"}}
    sts = Mock()
    sts.assume_role.side_effect = [credentials("1", timedelta(minutes=12)), ClientError(told, "AssumeRole")]
    loaded = AssumedRole(sts, ROLE).load()
    assert loaded.get_frozen_credentials().access_key == "ASIA1"
    assert sts.assume_role.call_count == 2
    (record,) = caplog.records
    assert "Refreshing temporary credentials failed" in record.getMessage()
    assert "the-token" not in caplog.text
