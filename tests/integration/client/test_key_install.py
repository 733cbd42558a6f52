"""`privyseal key install`: the public key in a Capacitor configuration, and the rest of it as it was."""

from __future__ import annotations

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal import capgo
from privyseal.capacitor_config import edit_json, edit_script, script_line
from privyseal.errors import InputError
from privyseal.v1 import signing_pb2
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3

PEM = VECTOR_V3.public_pem.read_text()
OTHER = VECTOR_V2.public_pem.read_text()
INSTALL = ("key", "install", "demo", "--capacitor-config")


ONE_LINE = '{"plugins":{"CapacitorUpdater":{"publicKey":KEY}}}'
SPACED = """{
  "plugins": {
    "CapacitorUpdater": {
      "publicKey" : KEY,
      "b": [1,
2]
    }
  }
}
"""
LAST = """{
  "plugins": {
    "CapacitorUpdater": {
      "autoUpdate": true,
      "publicKey": KEY
    }
  }
}"""
TABS = """{
\t"appId": "a",
\t"plugins": {
\t\t"CapacitorUpdater": {
\t\t\t"publicKey": KEY
\t\t}
\t}
}
"""
ALL = """{
    "appId": "a",
    "plugins": {
        "CapacitorUpdater": {
            "publicKey": KEY
        }
    }
}
"""
BARE = """{
  "plugins": {
    "CapacitorUpdater": {
      "publicKey": KEY
    }
  }
}"""
WITH_BOM = '\ufeff{ "plugins": { "CapacitorUpdater": {"a": 1, "publicKey": KEY} } }'
CASES = [
    (ONE_LINE.replace("KEY", '"old"'), ONE_LINE),
    (ONE_LINE.replace("KEY", "null"), ONE_LINE),
    (SPACED.replace("KEY", '"old"'), SPACED),
    (LAST.replace(',\n      "publicKey": KEY', ""), LAST),
    ('{\n\t"appId": "a",\n\t"plugins": {}\n}\n', TABS),
    ('{\r\n    "appId": "a"\r\n}\r\n', ALL.replace("\n", "\r\n")),
    ("{}", BARE),
    (WITH_BOM.replace(', "publicKey": KEY', ""), WITH_BOM),
]
NAMES = st.text(max_size=4)
VALUES = st.recursive(
    st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=6
)


class TestJson:
    @pytest.mark.parametrize(("before", "after"), CASES)
    def test_formatting_is_kept(self, before, after):
        assert edit_json(before, PEM) == after.replace("KEY", json.dumps(PEM))

    def test_what_has_the_key_is_left_alone(self):
        text = json.dumps({"plugins": {"CapacitorUpdater": {"publicKey": PEM}}}).replace("/", "\\/")
        assert edit_json(text, PEM) == text

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is not JSON"),
            ("{'a': 1}", "is not JSON"),
            ("[]", "the configuration is not a JSON object"),
            ('{"plugins": []}', "plugins is not a JSON object"),
            ('{"plugins": {"CapacitorUpdater": "x"}}', "plugins.CapacitorUpdater is not a JSON object"),
            ('{"plugins": {}, "plugins": {}}', "has plugins twice"),
            ('{"plugins": {"CapacitorUpdater": {"publicKey": "a", "publicKey": "b"}}}', "publicKey twice"),
        ],
    )
    def test_where_there_is_no_place(self, text, says):
        with pytest.raises(InputError) as caught:
            edit_json(text, PEM)
        assert says in caught.value.message

    @given(st.dictionaries(NAMES, VALUES), st.sampled_from([None, 0, 2, "\t"]), st.integers(0, 2))
    def test_nothing_else_changes(self, config, indent, depth):
        config.pop("plugins", None)
        if depth:
            config["plugins"] = {"Other": {"publicKey": "x"}}
        if depth == 2:
            config["plugins"]["CapacitorUpdater"] = {"autoUpdate": True}
        found = json.loads(edit_json(json.dumps(config, indent=indent), PEM))
        assert found["plugins"]["CapacitorUpdater"].pop("publicKey") == PEM
        if depth < 2:
            del found["plugins"]["CapacitorUpdater"]
        if depth == 0:
            del found["plugins"]
        assert found == config


class TestScript:
    @pytest.mark.parametrize("quote", ["'", '"', "`"])
    @pytest.mark.parametrize("name", ["publicKey", "'publicKey'", '"publicKey"'])
    def test_one_plain_string(self, quote, name):
        def text(pem):
            inner = pem if quote == "`" else pem.replace("\n", "\\n")
            return f"// it's a comment\nexport default {{ plugins: {{ {name} : {quote}{inner}{quote}, a: 'b' }} }};\n"

        assert edit_script(text(OTHER), OTHER, PEM) == text(PEM)

    @pytest.mark.parametrize(
        "text",
        [
            "const c = { publicKey: process.env.KEY };",
            "const c = { publicKey: 'a' + 'b' };",
            "const c = { publicKey: 'ab', other: { publicKey: 'ab' } };",
            "const key = 'ab'; const c = { publicKey: key };",
            "const c = { notpublicKey: 'ab' };",
            "const c = { publicKey: 'ab', r: /'/ };",
            "const c = { publicKey: `${'ab'}` };",
            "const c = { /* publicKey: 'ab' */ };",
            "const c = { publicKey: 'a\\u0062' };",
            "const c = { publicKey: 'ab ",
        ],
    )
    def test_anything_else_is_left_alone(self, text):
        assert edit_script(text, "ab", PEM) is None

    def test_the_line_to_put_in(self):
        assert script_line("a\nb\n") == 'publicKey: "a\\nb\\n",'


@pytest.fixture
def served(program, server):
    program.use(server)
    return program


def config(path, **updater):
    path.write_text(json.dumps({"appId": "com.example.app", "plugins": {"CapacitorUpdater": updater}}, indent=2) + "\n")
    return path


class TestProgram:
    def test_the_change_is_made_and_printed(self, served):
        path = config(served.folder / "capacitor.config.json", autoUpdate=True)
        path.chmod(0o640)
        done = served.run(*INSTALL, path.name)
        assert done.code == 0, done.err
        assert json.loads(path.read_text())["plugins"]["CapacitorUpdater"] == {"autoUpdate": True, "publicKey": PEM}
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        added = [line for line in done.out.splitlines() if line.startswith("+") and "publicKey" in line]
        assert json.loads("{" + added[0][1:] + "}") == {"publicKey": PEM}
        assert done.out.startswith("--- capacitor.config.json\n+++ capacitor.config.json\n@@ ")
        assert "run `npx cap sync`" in done.err
        assert served.files() == {"capacitor.config.json"}

    def test_again_it_is_nothing(self, served):
        path = config(served.folder / "capacitor.config.json", publicKey=PEM)
        before = path.stat().st_mtime_ns
        done = served.run(*INSTALL, path.name)
        assert (done.code, done.out, path.stat().st_mtime_ns) == (0, "", before)
        assert "has the public key of demo already" in done.err

    def test_a_configuration_that_is_none_is_named(self, served):
        (served.folder / "capacitor.config.json").write_text("[]")
        done = served.run(*INSTALL, "capacitor.config.json")
        assert done.code == 1
        assert "capacitor.config.json: the configuration is not a JSON object; repair it" in done.sentence()

    def test_dry_run(self, served):
        path = config(served.folder / "capacitor.config.json")
        before = path.read_bytes()
        done = served.run(*INSTALL, path.name, "--dry-run")
        assert done.code == 0
        assert '+      "publicKey"' in done.out
        assert path.read_bytes() == before

    def test_another_key_and_a_private_one_are_warned_of(self, served):
        path = config(served.folder / "capacitor.config.json", publicKey=OTHER, privateKey="secret")
        done = served.run(*INSTALL, path.name)
        assert done.code == 0
        assert "the configuration had another key" in done.err
        assert "holds a privateKey" in done.err
        assert json.loads(path.read_text())["plugins"]["CapacitorUpdater"]["publicKey"] == PEM

    def test_spki_is_replaced_by_pkcs1(self, served):
        spki = capgo.spki_pem(capgo.load_public_key(PEM))
        path = config(served.folder / "capacitor.config.json", publicKey=spki)
        assert served.run(*INSTALL, path.name).code == 0
        assert json.loads(path.read_text())["plugins"]["CapacitorUpdater"]["publicKey"] == PEM

    def test_a_script_with_a_plain_string(self, served):
        path = served.folder / "capacitor.config.js"
        text = "module.exports = { appId: 'com.example.app', plugins: { CapacitorUpdater: { publicKey: %s } } };\n"
        path.write_text(text % json.dumps(OTHER))
        done = served.run(*INSTALL, path.name)
        assert done.code == 0, done.err
        assert path.read_text() == text % json.dumps(PEM)
        assert served.files() == {"capacitor.config.js"}

    @pytest.mark.parametrize(
        "text",
        [
            "module.exports = { plugins: { CapacitorUpdater: {} } };",
            "const key = %s; module.exports = { plugins: { CapacitorUpdater: { publicKey: key } } };",
            "const x = { publicKey: %s }; module.exports = { appId: x.publicKey, plugins: { CapacitorUpdater: x } };",
            "throw new Error('not today');",
        ],
        ids=["no key", "a variable", "one that node reads differently", "one that throws"],
    )  # fmt: skip
    def test_a_script_that_is_not_safe_to_edit(self, served, text):
        path = served.folder / "capacitor.config.js"
        path.write_text(text.replace("%s", json.dumps(OTHER)))
        before = path.read_bytes()
        done = served.run(*INSTALL, path.name)
        assert done.code == 1
        assert done.out == f"publicKey: {json.dumps(PEM)},\n"
        assert "put the line above into plugins.CapacitorUpdater by hand" in done.sentence()
        assert (path.read_bytes(), served.files()) == (before, {"capacitor.config.js"})

    def test_without_node_a_script_is_left_alone(self, served, tmp_path):
        path = served.folder / "capacitor.config.js"
        path.write_text("module.exports = {};")
        served.environ["PATH"] = str(tmp_path / "nothing")
        done = served.run(*INSTALL, path.name)
        assert (done.code, done.out) == (1, f"publicKey: {json.dumps(PEM)},\n")
        assert "node was not found" in done.sentence()

    def test_a_missing_file(self, served):
        done = served.run(*INSTALL, "capacitor.config.json")
        assert done.code == 2
        assert "capacitor.config.json: no such file" in done.sentence()

    def test_one_that_is_not_text(self, served):
        (served.folder / "capacitor.config.json").write_bytes(b"\xff")
        done = served.run(*INSTALL, "capacitor.config.json")
        assert done.code == 1
        assert "is not UTF-8" in done.sentence()

    def test_a_key_that_devices_cannot_use(self, served, server):
        server.schemes = (signing_pb2.WRAP_SCHEME_RSAES_OAEP_SHA256,)
        path = config(served.folder / "capacitor.config.json")
        done = served.run(*INSTALL, path.name)
        assert done.code == 1
        assert "is not one that may seal for Capgo" in done.sentence()

    def test_a_link_is_followed(self, served):
        real = config(served.folder / "real.json")
        (served.folder / "capacitor.config.json").symlink_to("real.json")
        assert served.run(*INSTALL, "capacitor.config.json").code == 0
        assert (served.folder / "capacitor.config.json").is_symlink()
        assert PEM in json.loads(real.read_text())["plugins"]["CapacitorUpdater"].values()
