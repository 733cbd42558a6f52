"""Where the settings come from, and which of two places wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from privyseal.configuration import Layer, load, user_file
from privyseal.errors import ConfigurationError, InputError
from privyseal.model import BundleFormat


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path)


class Places:
    """The places that settings come from, all empty."""

    def __init__(self, folder: Path) -> None:
        self.environ = {"HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "xdg")}
        self.working_folder = folder / "work"
        self.working_folder.mkdir()
        self.user = folder / "xdg" / "privyseal" / "config.toml"
        self.user.parent.mkdir(parents=True)

    def project(self, text: str) -> None:
        (self.working_folder / "privyseal.toml").write_text(text)

    def load(self, **flags):
        return load(Layer("the command line", **flags), environ=self.environ, working_folder=self.working_folder)

    def connect(self, **flags):
        return self.load(**flags).require_connection()


class TestPrecedence:
    def test_nothing(self, places):
        settings = places.load()
        assert (settings.connection, settings.key, settings.format) == (None, None, BundleFormat.AUTO)
        with pytest.raises(ConfigurationError, match="no signing service is named; pass --server"):
            settings.require_connection()

    def test_server(self, places):
        places.user.write_text('server = "user:1"')
        assert places.connect().server == "user:1"
        places.environ["PRIVYSEAL_SERVER"] = "variable:1"
        assert places.connect().server == "variable:1"
        assert places.connect(server="flag:1").server == "flag:1"

    def test_key(self, places):
        places.user.write_text('key = "user"')
        assert places.load().key == "user"
        places.project('key = "project"')
        assert places.load().key == "project"
        places.environ["PRIVYSEAL_KEY"] = "variable"
        assert places.load().key == "variable"
        assert places.load(key="flag").key == "flag"

    def test_format(self, places):
        places.user.write_text('format = "capgo-v2"')
        assert places.load().format is BundleFormat.CAPGO_V2
        places.project('format = "capgo-v3"')
        assert places.load().format is BundleFormat.CAPGO_V3
        assert places.load(format="auto").format is BundleFormat.AUTO

    def test_every_variable(self, places):
        places.environ |= {
            "PRIVYSEAL_SERVER": "s:1",
            "PRIVYSEAL_KEY": "k",
            "PRIVYSEAL_CA": "ca",
            "PRIVYSEAL_CERT": "cert",
            "PRIVYSEAL_CERT_KEY": "cert-key",
        }
        found = places.connect()
        assert (found.server, found.ca, found.cert, found.cert_key) == (
            "s:1",
            Path("ca"),
            Path("cert"),
            Path("cert-key"),
        )
        del places.environ["PRIVYSEAL_CERT"], places.environ["PRIVYSEAL_CERT_KEY"]
        places.environ["PRIVYSEAL_TOKEN_FILE"] = "token"
        assert places.connect().token_file == Path("token")
        del places.environ["PRIVYSEAL_TOKEN_FILE"]
        places.environ["PRIVYSEAL_TOKEN"] = "hush"
        assert places.connect().token == "hush"
        assert "hush" not in repr(places.load())

    def test_empty_variables_are_not_set(self, places):
        places.environ |= {"PRIVYSEAL_SERVER": "s:1", "PRIVYSEAL_CERT": "", "PRIVYSEAL_TOKEN": ""}
        assert places.connect().cert is None

    def test_scheme(self, places):
        assert not places.connect(server="https://s:1").insecure
        assert places.connect(server="https://s:1/").server == "s:1"
        assert places.connect(server="http://localhost:1").insecure
        assert places.connect(server="localhost:1", insecure=True).insecure


class TestIdentity:
    def test_the_highest_place_decides_which(self, places):
        places.user.write_text('cert = "c"\ncert_key = "k"\nserver = "s:1"')
        places.environ["PRIVYSEAL_TOKEN_FILE"] = "t"
        found = places.connect()
        assert (found.token_file, found.cert, found.cert_key) == (Path("t"), None, None)
        found = places.connect(cert=Path("C"), cert_key=Path("K"))
        assert (found.token_file, found.cert, found.cert_key) == (None, Path("C"), Path("K"))
        found = places.connect(token_command="print-one")
        assert (found.token_command, found.token_file, found.cert) == ("print-one", None, None)

    def test_certificate_and_key_from_two_places(self, places):
        places.user.write_text('cert_key = "k.pem"\nserver = "s:1"')
        found = places.connect(cert=Path("C"))
        assert (found.cert, found.cert_key) == (Path("C"), places.user.parent / "k.pem")

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            ({"cert": Path("c")}, "add --cert-key FILE"),
            ({"cert_key": Path("c")}, "add --cert FILE"),
            ({"token": "a", "token_file": Path("b")}, "token and token-file are set together"),
            ({"token": "a", "token_command": "b"}, "token and token-command are set together"),
            ({"cert": Path("c"), "cert_key": Path("k"), "token": "a"}, "cert and token are set together"),
        ],
    )
    def test_contradictions(self, places, flags, says):
        with pytest.raises(ConfigurationError, match=says):
            places.connect(server="s:1", **flags)


class TestProjectFile:
    @pytest.mark.parametrize(
        "line",
        ['server = "evil:1"', 'ca = "evil.pem"', 'token_command = "curl evil"', 'cert = "x"', 'receipt = "x"', "[key]"],
    )
    def test_only_key_and_format(self, places, line):
        places.project(f'format = "auto"\n{line}\n')
        with pytest.raises(ConfigurationError) as caught:
            places.load()
        assert ("a pull request can change it" in str(caught.value)) == (line != "[key]")

    @pytest.mark.parametrize("table", ["[server]\nworkers = 1", "[[listeners]]\n", "[[keys]]\n", "[[grants]]\n"])
    def test_a_configuration_of_the_service_is_recognised(self, places, table):
        places.project(table)
        with pytest.raises(ConfigurationError) as caught:
            places.load()
        assert str(places.working_folder / "privyseal.toml") in str(caught.value)
        assert "server.toml" in str(caught.value)

    def test_a_relative_working_folder_is_named_in_full(self, places, monkeypatch):
        places.project('server = "evil:1"')
        monkeypatch.chdir(places.working_folder)
        with pytest.raises(ConfigurationError) as caught:
            load(Layer("the command line"), environ=places.environ)
        assert str(places.working_folder / "privyseal.toml") in str(caught.value)

    def test_only_the_working_folders(self, places):
        (places.working_folder.parent / "privyseal.toml").write_text('key = "parent"')
        assert places.load().key is None

    @pytest.mark.parametrize("text", ["key = ", "key = 1", 'key = ""', "\x00", 'key = "a"\nkey = "b"'])
    def test_malformed(self, places, text):
        places.project(text)
        with pytest.raises(ConfigurationError, match=r"privyseal\.toml"):
            places.load()

    def test_not_utf8(self, places):
        (places.working_folder / "privyseal.toml").write_bytes(b'key = "\xff"')
        with pytest.raises(ConfigurationError, match="is not TOML"):
            places.load()

    def test_unknown_format(self, places):
        places.project('format = "capgo-v4"')
        with pytest.raises(
            ConfigurationError, match="there is no format 'capgo-v4'; use one of auto, capgo-v2, capgo-v3"
        ):
            places.load()

    def test_too_large(self, places):
        places.project("#" * (1 << 21))
        with pytest.raises(InputError, match="larger"):
            places.load()


class TestUserFile:
    def test_paths_are_relative_to_it(self, places, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        places.user.write_text('server = "s:1"\nca = "ca.pem"\ncert = "/etc/c.pem"\ncert_key = "~/k.pem"')
        found = places.connect()
        assert found.ca == places.user.parent / "ca.pem"
        assert (found.cert, found.cert_key) == (Path("/etc/c.pem"), Path("/home/somebody/k.pem"))

    def test_unknown_setting(self, places):
        places.user.write_text('sever = "s:1"')
        with pytest.raises(ConfigurationError, match="there is no setting sever; use server, key"):
            places.load()

    @pytest.mark.parametrize(("mode", "fits"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False)])
    def test_token_is_for_its_owner(self, places, mode, fits):
        places.user.write_text('token = "hush"\nserver = "s:1"')
        places.user.chmod(mode)
        if fits:
            assert places.connect().token == "hush"
        else:
            with pytest.raises(ConfigurationError, match="chmod 600") as caught:
                places.load()
            assert "hush" not in str(caught.value)

    def test_where_it_is(self):
        assert user_file({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/privyseal/config.toml")
        assert user_file({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == Path("/h/.config/privyseal/config.toml")
        assert user_file({"XDG_CONFIG_HOME": "", "HOME": "/h"}) == Path("/h/.config/privyseal/config.toml")
