"""Grants, with issuers and limits, as they are written; and files of grants."""

from __future__ import annotations

from pathlib import Path

import pytest

from privyseal_service.config.errors import ConfigError
from privyseal_service.domain.grants import Counted, Grants
from privyseal_service.domain.operation_names import Operation
from tests.support.configuration import GRANT, ISSUER, KEY, LISTENER, OIDC_GRANT, OIDC_LISTENER, SERVER, load, refused


def test_all_of_a_grant(tmp_path: Path) -> None:
    grant = OIDC_GRANT + (
        'claims = { repository = "octo-org/*", ref = ["refs/heads/main", "refs/tags/*"] }\n'
        'window = { days = ["mon", "tue"], hours = "08:00-18:00", timezone = "Europe/Berlin" }\n'
        'context = ["app_id"]\nrate = "100/second"\ndaily_quota = 5000\ncounted = "caller"\npriority = 5\n'
    )
    config = load(tmp_path, SERVER + OIDC_LISTENER + ISSUER + KEY + grant)
    found = config.grants[0].grant()
    assert (found.rate.amount, found.rate.window_s) == (100, 1)  # type: ignore[union-attr]
    assert (found.daily_quota, found.counted, found.priority, found.context) == (5000, Counted.CALLER, 5, ("app_id",))
    assert found.hours is not None
    assert found.hours.text == "mon, tue 08:00-18:00 Europe/Berlin"
    assert found.origin == f"{tmp_path}/server.toml"
    assert config.server.state_folder == tmp_path / "state"
    assert config.issuers[0].jwks_file == tmp_path / "jwks.json"
    caller = "oidc:https://ci.example:repo:octo-org/app:ref:refs/heads/main"
    claims = (("repository", "octo-org/app"), ("ref", "refs/tags/v1"))
    assert list(Grants([found]).of_caller(caller, claims)) == ["demo"]
    assert Grants([found]).of_caller(caller) == {}
    assert Grants([found]).of_caller(caller, (("repository", "octo-org/app"), ("ref", "refs/tags/a/b"))) == {}


@pytest.mark.parametrize(
    ("text", "window_s"),
    [("1/second", 1), ("6000 / minutes", 60), ("500/5 minutes", 300), ("9/2hours", 7200), ("1/day", 86400)],
)
def test_rates(tmp_path: Path, text: str, window_s: int) -> None:
    config = load(tmp_path, SERVER + LISTENER + KEY + GRANT + f'rate = "{text}"\n')
    rate = config.grants[0].grant().rate
    assert rate is not None
    assert rate.window_s == window_s


def test_grants_in_files_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "grants.d"
    folder.mkdir()
    (folder / "b.toml").write_text(GRANT.replace("farm", "b"))
    (folder / "a.toml").write_text(GRANT.replace("farm", "a1") + GRANT.replace("farm", "a2"))
    (folder / ".c.toml").write_text("junk")
    (folder / "d.toml~").write_text("junk")
    text = '[server]\ngrants_folder = "grants.d"\n' + LISTENER + KEY + GRANT
    config = load(tmp_path, text)
    assert [grant.name for grant in config.grants] == ["farm", "a1", "a2", "b"]
    assert config.grants[2].grant().origin == f"{folder}/a.toml"
    assert config.files == (tmp_path / "server.toml", folder, folder / "a.toml", folder / "b.toml")
    for content, says in (
        ("", "grants: is missing"),
        (GRANT + "[server]\nworkers = 1\n", "server: there is no such setting"),
        (
            GRANT.replace("farm", "x") + GRANT.replace("demo", "other").replace("farm", "y"),
            "grants[1].keys[0]: there is no key of this name",
        ),
        (GRANT, f"grants[0].name: is the name of grants[0] in {tmp_path}/server.toml too"),
        (GRANT.replace("farm", "x") * 2, "grants[1].name: is the name of grants[0] too"),
        (
            GRANT.replace("farm", "x") + "rates = 1\n",
            "grants[0].rates: there is no such setting; did you mean rate?",
        ),
    ):
        (folder / "a.toml").write_text(content)
        assert sentence_of(tmp_path, text) == f"{folder}/a.toml: {says}"
    (folder / "a.toml").unlink()
    (folder / "a.toml").symlink_to(folder / "none")
    assert sentence_of(tmp_path, text) == (
        f"{folder}/a.toml: is neither a file nor a link to one; replace it, or remove it"
    )
    assert sentence_of(tmp_path, text.replace("grants.d", "none")) == (
        f"{tmp_path}/none: the folder of grants cannot be read: No such file or directory"
    )


def sentence_of(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value)


def test_reading_records_is_not_counted(tmp_path: Path) -> None:
    grant = GRANT.replace('keys = ["demo"]\n', "").replace("sign-checksum", "list-records")
    assert load(tmp_path, LISTENER + KEY + grant).grants[0].grant().operations == {Operation.LIST_RECORDS}
    for limit in ('rate = "1/second"\n', "daily_quota = 1\n", 'context = ["app_id"]\n'):
        assert refused(tmp_path, SERVER + LISTENER + KEY + grant + limit).startswith("grants[0]: list-records")
