"""Which format an app's devices take. The expectations are what @capgo/cli 8.68.1 does in the same folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal.model import SignatureScheme
from privyseal.plugin_version import decide, installed_version, scheme_for

V2, V3 = SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3


def package(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def plugin(folder: Path, version: str) -> None:
    package(folder / "node_modules" / "@capgo" / "capacitor-updater" / "package.json", version=version)


@pytest.mark.parametrize(
    ("version", "scheme"),
    [
        ("4.0.0", V3),
        ("5.0.0", V2),
        ("5.29.9", V2),
        ("5.30.0-rc.1", V2),
        ("5.30.0", V3),
        ("5.30.0+build.1", V3),
        ("6.29.99", V2),
        ("6.30.0", V3),
        ("7.27.8", V2),
        ("7.30.0-alpha", V2),
        ("7.30.1-alpha", V3),
        ("7.51.21", V3),
        ("8.0.0", V3),
        ("8.51.23", V3),
        ("v7.27.8", V2),
        ("v8.1.0", V3),
        (" 8.1.0 ", V3),
        ("10.0.0", V3),
        (None, V2),
        ("", V2),
        ("latest", V2),
        ("8", V2),
        ("8.1", V2),
        (">=8.0.0", V2),
        ("08.0.0", V2),
        ("8.0.0-", V2),
        ("8.0.0-01", V2),
        ("workspace:*", V2),
        ("8.0.0\n8.0.0", V2),
    ],
)
def test_scheme(version, scheme):
    assert scheme_for(version) is scheme


@given(st.text(max_size=30))
def test_any_text_is_decided(version):
    assert scheme_for(version) in {V2, V3}


@given(st.tuples(st.integers(0, 20), st.integers(0, 60), st.integers(0, 99)))
def test_rule(parts):
    old = parts[0] in {5, 6, 7} and parts[1] < 30
    assert scheme_for(".".join(map(str, parts))) is (V2 if old else V3)


class TestSearch:
    def test_nothing(self, tmp_path):
        assert decide(tmp_path).version is None
        assert decide(tmp_path).scheme is V2
        assert not decide(tmp_path).certain

    def test_installed(self, tmp_path):
        plugin(tmp_path, "7.27.8")
        package(tmp_path / "package.json", dependencies={"@capgo/capacitor-updater": "^8.0.0"})
        assert decide(tmp_path).version == "7.27.8"
        assert decide(tmp_path).certain

    def test_in_a_folder_above(self, tmp_path):
        plugin(tmp_path, "6.30.0")
        (tmp_path / "apps" / "mobile").mkdir(parents=True)
        assert installed_version(tmp_path / "apps" / "mobile") == "6.30.0"

    @pytest.mark.parametrize("mark", ["pnpm-workspace.yaml", "nx.json", "package.json"])
    def test_the_workspaces_root_goes_first(self, tmp_path, mark):
        app = tmp_path / "apps" / "mobile"
        plugin(app, "8.0.0")
        plugin(tmp_path, "7.0.0")
        assert installed_version(app) == "8.0.0"
        package(tmp_path / mark, workspaces=["apps/*"])
        assert installed_version(app) == "7.0.0"

    def test_named_package_files_go_first(self, tmp_path):
        plugin(tmp_path, "8.0.0")
        plugin(tmp_path / "other", "6.0.0")
        package(tmp_path / "other" / "package.json")
        assert installed_version(tmp_path, [Path("other/package.json")]) == "6.0.0"
        assert installed_version(tmp_path, [Path("none/package.json")]) == "8.0.0"

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("ios/App/Podfile", "  pod 'CapgoCapacitorUpdater', :path => '../../store/updater'"),
            (
                "android/capacitor.settings.gradle",
                "project(':capgo-capacitor-updater').projectDir = new File('../store/updater/android')",
            ),
        ],
    )
    def test_native_projects(self, tmp_path, file, line):
        package(tmp_path / "store" / "updater" / "package.json", version="7.1.2")
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(f"# before\n{line}\n")
        assert installed_version(tmp_path) == "7.1.2"

    @pytest.mark.parametrize(("wanted", "found"), [("^8.1.0", "8.1.0"), ("~7.2.3", "7.2.3"), ("latest", "latest")])
    @pytest.mark.parametrize("group", ["dependencies", "devDependencies"])
    def test_only_declared(self, tmp_path, wanted, found, group):
        package(tmp_path / "package.json", **{group: {"@capgo/capacitor-updater": wanted}})
        assert installed_version(tmp_path) == found
        assert decide(tmp_path).certain == (wanted != "latest")

    @pytest.mark.parametrize("content", ["", "{", "[]", '"8.0.0"', '{"version": 8}', '{"version": ""}', "\xff"])
    def test_unreadable(self, tmp_path, content):
        plugin(tmp_path, "8.0.0")
        file = tmp_path / "node_modules" / "@capgo" / "capacitor-updater" / "package.json"
        file.write_text(content, encoding="latin-1")
        assert decide(tmp_path).scheme is V2
