"""capacitor.config.ts and .js as node evaluates them for `privyseal exec`, and as the published CLI reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from privyseal.errors import InputError
from privyseal.exec import app
from tests.support.capgo_cli import install, make_app
from tests.support.signers import VECTORS

pytestmark = pytest.mark.usefixtures("with_node")

PEM = (VECTORS / "capgo-v3" / "public.pem").read_text()
CONFIG = json.dumps({"appId": "com.example.app", "plugins": {"CapacitorUpdater": {"publicKey": PEM}}})


def environment(**more):
    return {**{name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}, **more}


@pytest.fixture
def with_typescript(tmp_path):
    """An app that has typescript installed, as Capacitor wants it."""
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "typescript").symlink_to(install().parents[3] / "typescript")
    return tmp_path


def node_major():
    return int(
        subprocess.run(["node", "-p", "process.versions.node"], capture_output=True, check=True).stdout.split(b".")[0]
    )


def read(path, text, **more):
    path.write_text(text)
    return app.read_config(path, environment(), **more)


def test_typescript_is_compiled_by_the_apps_own_compiler(with_typescript):
    (with_typescript / "base.ts").write_text(f"enum Never {{ Seen }}\nexport const base: object = {CONFIG};\n")
    config = read(
        with_typescript / "capacitor.config.ts",
        """
import type { CapacitorConfig } from '@capacitor/cli';
import { base } from './base';
console.log('noise on stdout');
const config: CapacitorConfig = { ...base, appName: process.env.HOME as string };
export default config;
""",
    )
    assert (config.public_key, config.app_id, config.has_private_key) == (PEM, "com.example.app", False)


def test_typescript_is_compiled_by_that_of_a_cli_in_the_app(tmp_path):
    (tmp_path / "node_modules" / "@capgo").mkdir(parents=True)
    (tmp_path / "node_modules" / "@capgo" / "cli").symlink_to(install().parents[1])
    assert read(tmp_path / "capacitor.config.ts", f"export default {CONFIG} as object;").public_key == PEM


def test_typescript_without_a_compiler_is_left_to_node_where_it_can(tmp_path):
    path = tmp_path / "capacitor.config.ts"
    text = f"const config: object = {CONFIG};\nexport default config;\n"
    if node_major() >= 22:
        assert read(path, text).public_key == PEM
    else:
        with pytest.raises(InputError, match="install typescript in the app, or use node 22 or newer"):
            read(path, text)


@pytest.mark.parametrize(
    "text",
    [
        f"module.exports = {CONFIG};",
        f"module.exports = Promise.resolve({CONFIG});",
        f"console.log('noise'); setInterval(() => 0, 1000); module.exports = {CONFIG};",
    ],
    ids=["object", "promise", "one that goes on"],
)
def test_javascript_is_required(tmp_path, text):
    assert read(tmp_path / "capacitor.config.js", text).public_key == PEM


def test_a_named_configuration_may_be_a_function(tmp_path):
    text = f"module.exports = {{ default: async () => ({CONFIG}) }};"
    path = tmp_path / "capacitor.config.prod.js"
    assert read(path, text, named=True).public_key == PEM
    assert read(path, text).public_key is None  # as the CLI has it when nobody named the file


def test_the_environment_is_the_commands(tmp_path):
    path = tmp_path / "capacitor.config.js"
    path.write_text(
        "module.exports = { appId: process.env.FLAVOUR, plugins: { CapacitorUpdater: { privateKey: 'x' } } };"
    )
    config = app.read_config(path, environment(FLAVOUR="com.example.beta"))
    assert (config.app_id, config.has_private_key, config.public_key) == ("com.example.beta", True, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("throw new Error('no flavour is set\\nat all')", "cannot be evaluated: no flavour is set$"),
        ("module.exports = {", "cannot be evaluated: Unexpected end of input"),
        ("process.exit(3)", "cannot be evaluated: node ended with exit code 3"),
        ("process.kill(process.pid, 'SIGKILL')", "cannot be evaluated: node ended with exit code -9"),
        ("require('nowhere')", "cannot be evaluated: Cannot find module 'nowhere'"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path / "capacitor.config.js", text)


def test_a_process_that_the_configuration_left_behind_is_not_waited_for(tmp_path):
    text = """
const { spawn } = require('child_process');
const stdio = ['ignore', 'ignore', 'ignore', Number(process.argv[2])];
const child = spawn('sleep', ['1000'], { detached: true, stdio });
require('fs').writeFileSync('pid', String(child.pid));
process.exit(3);
"""
    try:
        with pytest.raises(InputError, match="node ended with exit code 3"):
            read(tmp_path / "capacitor.config.js", text)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_without_node_there_is_a_sentence_too(tmp_path):
    (tmp_path / "capacitor.config.js").write_text("")
    with pytest.raises(InputError, match="node was not found") as raised:
        app.read_config(tmp_path / "capacitor.config.js", {"PATH": str(tmp_path)})
    assert raised.value.remedy == "put it on the PATH"


@pytest.mark.parametrize("kind", ["ts", "js", "json"])
def test_the_published_cli_reads_the_same_public_key(tmp_path, kind):
    """`bundle decrypt` takes the public key of the configuration when it is given none: it opens what was sealed for
    the key that we read, and with another key in a configuration that comes later in the order it does not matter."""
    folder = tmp_path / "app"
    folder.mkdir()
    cli = make_app(folder, PEM, "capgo-v3")
    (folder / "node_modules" / "typescript").symlink_to(install().parents[3] / "typescript")
    other = (folder / "capacitor.config.json").read_text().replace(json.dumps(PEM), '"another"')
    (folder / "capacitor.config.json").write_text(other)
    if kind == "json":
        (folder / "capacitor.config.json").write_text(CONFIG)
    elif kind == "js":
        (folder / "capacitor.config.js").write_text(f"module.exports = {CONFIG};")
    else:
        (folder / "capacitor.config.js").write_text(f"module.exports = {other};")
        (folder / "capacitor.config.ts").write_text(f"const config: object = {CONFIG};\nexport default config;\n")
    path = app.find_config(folder)
    assert path is not None
    assert path.suffix == f".{kind}"
    assert app.read_config(path, environment()).public_key == PEM
    vector = VECTORS / "capgo-v3"
    sealed = json.loads((vector / "encrypt.json").read_text())
    (folder / "sealed.zip").write_bytes((vector / "bundle.zip_encrypted.zip").read_bytes())
    done = cli.run("bundle", "decrypt", "sealed.zip", sealed["ivSessionKey"], "--checksum", sealed["checksum"])
    assert done.returncode == 0, done.stdout + done.stderr
