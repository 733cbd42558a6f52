"""The state folder of a configuration that may be wrong otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import state_folder_of


@pytest.mark.parametrize("text", ["", "[server]\nworkers = 1\n", "server = 7\n", "[server]\nstate_folder = 7\n"])
def test_a_configuration_that_names_no_state_folder(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"server\.state_folder: "):
        state_folder_of(file)


def test_whatever_else_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('grants = 7\n[server]\nstate_folder = "state"\nworkrs = 1\n')
    assert state_folder_of(file) == tmp_path / "state"
