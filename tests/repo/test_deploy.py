"""deploy/: the unit is sound and hardened, the example configuration is valid, the container runs as nobody special."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from privyseal_service.config.loading import load_config
from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, RESTART_REQUIRED, UNAVAILABLE
from tests.support.checkout import CHECKOUT

DEPLOY = CHECKOUT / "deploy"
UNIT = DEPLOY / "privyseal-server.service"
EXPOSURE = 1.3


def systemd_analyze(*arguments):
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: install the package systemd"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def unit(tmp_path):
    """The unit with a program that is there, as one that is not is an error of its own."""
    text = UNIT.read_text()
    assert "ExecStart=/opt/privyseal/bin/privyseal-server serve " in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/privyseal/bin/privyseal-server", sys.executable))
    return copy


def test_systemd_has_nothing_to_say_about_the_unit(unit):
    checked = systemd_analyze("verify", "--man=no", str(unit))

    assert checked.returncode == 0
    assert checked.stdout + checked.stderr == ""


def test_the_unit_starts_the_service_again_but_not_where_that_would_cost_a_try_of_the_pin():
    service = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if line[:7] == "Restart")
    assert service == {"Restart": "on-failure", "RestartSec": "2s", "RestartPreventExitStatus": str(REFUSED)}
    assert REFUSED not in (UNAVAILABLE, INTERNAL_ERROR, RESTART_REQUIRED)


def test_systemd_sees_an_unknown_setting(unit):
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))

    assert "NoNewPrivilege" in systemd_analyze("verify", "--man=no", str(unit)).stderr


def test_the_units_exposure(capsys):
    checked = systemd_analyze(
        "security", "--offline=yes", "--no-pager", f"--threshold={round(EXPOSURE * 10)}", str(UNIT)
    )
    score = re.search(r"Overall exposure level for .*: ([0-9.]+)", checked.stdout)
    with capsys.disabled():
        print(f"\n  systemd-analyze security: {score and score[0]} (at most {EXPOSURE})")

    assert checked.returncode == 0, checked.stdout
    assert float(score[1]) <= EXPOSURE


def test_the_example_configuration_is_valid(tmp_path):
    config = load_config(DEPLOY / "server.example.toml")

    assert [key.name for key in config.keys] == ["app-release"]
    assert config.listeners[0].certificate == DEPLOY / "server.pem"


def test_so_is_all_of_it_that_is_commented_out(tmp_path):
    """Uncommented together, each setting is one that there is, of a fitting value; and none is missing."""
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", (DEPLOY / "server.example.toml").read_text(), flags=re.MULTILINE)
    file = tmp_path / "server.toml"
    file.write_text(text)
    (tmp_path / "grants.d").mkdir()
    config = load_config(file)

    assert config.metrics.address == "127.0.0.1:9464"
    assert [listener.auth for listener in config.listeners] == ["mtls", "oidc"]
    assert [grant.name for grant in config.grants] == ["build farm", "app release, GitHub", "auditors"]
    alternatives = {"jwks_file"}  # in place of jwks_url
    for model, shown in tables(config):
        assert set(type(model).model_fields) - set(shown) - alternatives == set(), type(model).__name__


def tables(config):
    """Each table of the configuration with the settings that are written out in it; of several grants, in any."""
    yield config, [*config.model_fields_set, "keys", "grants"]
    for name in ("server", "log", "metrics", "identity", "audit", "limits"):
        yield getattr(config, name), getattr(config, name).model_fields_set
    yield config.listeners[0], config.listeners[0].model_fields_set
    for each in (config.issuers, config.keys, config.grants):
        yield each[0], set().union(*(table.model_fields_set for table in each))


@pytest.mark.parametrize("guide", ["grants.md", "oidc.md", "operations.md"])
def test_what_the_guides_show_is_valid(tmp_path, guide):
    """Each block of configuration, with what a whole one has beside it."""
    blocks = re.findall(r"```toml\n(.*?)```", (CHECKOUT / "docs" / guide).read_text(), re.DOTALL)
    text = (DEPLOY / "server.example.toml").read_text()
    base = text[: text.index("# Who may use which key for what.")]
    added = "".join(blocks)
    issuers = "" if "[[issuers]]" in added else ISSUER
    oidc = "" if 'auth = "oidc"' in added or "oidc:" not in added else OIDC_LISTENER
    file = tmp_path / "server.toml"
    file.write_text("\n".join([base, added, *([issuers, oidc] if "oidc:" in added else [])]))
    config = load_config(file)

    assert blocks
    assert config.grants or config.metrics


OIDC_LISTENER = """
[[listeners]]
address = "127.0.0.1:8444"
auth = "oidc"
certificate = "server.pem"
certificate_key = "server-key.pem"
"""
ISSUER = """
[[issuers]]
issuer = "https://ci.example"
audiences = ["privyseal"]
jwks_file = "jwks.json"
"""


def test_the_container_runs_as_a_user_of_its_own_on_checked_packages():
    text = (DEPLOY / "Containerfile").read_text()

    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "--require-hashes --requirement requirements.lock" in text
    assert not re.search(r"pip install(?!.*--no-index)", re.sub(r" \\\n\s*", " ", text))
