"""The hook in node processes of all kinds, with an agent whose key is in software."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from privyseal.exec import child
from privyseal.exec.agent import Agent
from tests.support.signers import VECTORS, SoftwareSigner

pytestmark = pytest.mark.usefixtures("with_node")

CHECKSUM = "00112233445566778899aabbccddeeff" * 2
EXPECTED = SoftwareSigner()._type1(bytes.fromhex(CHECKSUM)).hex()
PRIVATE_KEY = VECTORS / "capgo-v3" / "private.pem"


@pytest.fixture
def signer():
    return SoftwareSigner()


@pytest.fixture
def env(tmp_path, signer):
    """What a child of `privyseal exec` finds, with an agent that answers."""
    base = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    with Agent(tmp_path / "agent", signer, signer.public_key, lambda _: None):
        yield child.environment(base, tmp_path, tmp_path / "agent", 5)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


def node(folder, env, script, *, name="script.mjs", arguments=()):
    """Run a script in a folder; what it printed as JSON."""
    (folder / name).write_text(script)
    done = subprocess.run(["node", name, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


HELPERS = f"""
import crypto from 'node:crypto';
import {{ readFileSync }} from 'node:fs';
const checksum = Buffer.from('{CHECKSUM}', 'hex');
const placeholder = readFileSync('.capgo_key_v2', 'utf8');
const padding = crypto.constants.RSA_PKCS1_PADDING;
const attempt = (make) => {{
  try {{ return make().toString('hex'); }} catch (error) {{ return `error: ${{error.message}}`; }}
}};
"""


def test_every_way_to_the_function_leads_to_the_agent(folder, env, signer):
    found = node(
        folder,
        env,
        HELPERS
        + """
import { privateEncrypt } from 'node:crypto';
import { privateEncrypt as unprefixed } from 'crypto';
import * as namespace from 'node:crypto';
import { createRequire } from 'node:module';
const required = createRequire(import.meta.url)('crypto');
const key = { key: placeholder, padding };
console.log(JSON.stringify({
  named: attempt(() => privateEncrypt(key, checksum)),
  unprefixed: attempt(() => unprefixed(key, checksum)),
  namespace: attempt(() => namespace.privateEncrypt(key, checksum)),
  byDefault: attempt(() => crypto.privateEncrypt(key, checksum)),
  required: attempt(() => required.privateEncrypt(key, checksum)),
  builtin: attempt(() => process.getBuiltinModule('crypto').privateEncrypt(key, checksum)),
  defaultPadding: attempt(() => privateEncrypt({ key: placeholder }, checksum)),
  keyAlone: attempt(() => privateEncrypt(placeholder, checksum)),
  keyAsBytes: attempt(() => privateEncrypt(Buffer.from(placeholder), checksum)),
  trimmedKey: attempt(() => privateEncrypt({ key: placeholder.trim(), padding }, checksum)),
  array: attempt(() => privateEncrypt(key, new Uint8Array(checksum))),
  view: attempt(() => privateEncrypt(key, new DataView(Uint8Array.from([9, ...checksum, 9]).buffer, 1, 32))),
  arrayBuffer: attempt(() => privateEncrypt(key, Uint8Array.from(checksum).buffer)),
  text: attempt(() => privateEncrypt({ ...key, encoding: 'hex' }, checksum.toString('hex'))),
}));
""",
    )
    assert found == dict.fromkeys(found, EXPECTED)
    assert len(found) == len(signer.asked) == 14


def test_workers_and_child_processes_of_the_app_sign_through_the_agent_too(folder, env):
    (folder / "sign.mjs").write_text(
        HELPERS
        + """
import { parentPort } from 'node:worker_threads';
const signature = attempt(() => crypto.privateEncrypt({ key: placeholder, padding }, checksum));
if (parentPort) parentPort.postMessage(signature); else console.log(signature);
"""
    )
    found = node(
        folder,
        env,
        """
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
const [[first], [second]] = await Promise.all([1, 2].map(() => once(new Worker('./sign.mjs'), 'message')));
console.log(JSON.stringify([first, second, execFileSync(process.execPath, ['sign.mjs'], { encoding: 'utf8' }).trim()]));
""",
    )
    assert found == [EXPECTED] * 3


def test_another_private_key_is_refused_in_every_form(folder, env, signer):
    found = node(
        folder,
        env,
        HELPERS
        + f"""
const pem = readFileSync({json.dumps(str(PRIVATE_KEY))}, 'utf8');
const key = crypto.createPrivateKey(pem);
console.log(JSON.stringify({{
  pem: attempt(() => crypto.privateEncrypt({{ key: pem, padding }}, checksum)),
  bytes: attempt(() => crypto.privateEncrypt(Buffer.from(pem), checksum)),
  object: attempt(() => crypto.privateEncrypt(key, checksum)),
  wrapped: attempt(() => crypto.privateEncrypt({{ key, padding }}, checksum)),
  jwk: attempt(() => crypto.privateEncrypt({{ key: key.export({{ format: 'jwk' }}), format: 'jwk' }}, checksum)),
  der: attempt(() => crypto.privateEncrypt(
    {{ key: key.export({{ format: 'der', type: 'pkcs1' }}), format: 'der', type: 'pkcs1' }}, checksum)),
  zeroPadding: attempt(() => crypto.privateEncrypt({{ key: pem, padding: 0 }}, checksum)),
}}));
""",
    )
    for answer in found.values():
        assert "refused to sign with a private key of this machine" in answer
    assert len(found) == 7
    assert signer.asked == []


def test_what_is_not_a_type_1_block_works_as_before(folder, env, signer):
    script = (
        """
import crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
"""
        f"const pem = readFileSync({json.dumps(str(PRIVATE_KEY))}, 'utf8');"
        """
const { RSA_NO_PADDING, RSA_PKCS1_PADDING, RSA_PKCS1_OAEP_PADDING } = crypto.constants;
const hex = (data) => data.toString('hex');
const raw = crypto.privateEncrypt({ key: pem, padding: RSA_NO_PADDING }, Buffer.alloc(256, 1));
const sealed = crypto.publicEncrypt({ key: pem, padding: RSA_PKCS1_OAEP_PADDING }, Buffer.from('hello'));
let unfit;
try {
  crypto.privateEncrypt({ key: pem, padding: RSA_PKCS1_OAEP_PADDING }, Buffer.alloc(32));
} catch (error) { unfit = error.code; }
console.log(JSON.stringify([
  hex(raw),
  hex(crypto.sign('sha256', Buffer.from('hello'), pem)),
  hex(crypto.createSign('sha256').update('hello').sign(pem)),
  hex(crypto.publicDecrypt({ key: pem, padding: RSA_NO_PADDING }, raw)),
  crypto.privateDecrypt({ key: pem, padding: RSA_PKCS1_OAEP_PADDING }, sealed).toString(),
  unfit,
]));
"""
    )
    hooked = node(folder, env, script)
    unhooked = node(folder, {name: value for name, value in env.items() if name != "NODE_OPTIONS"}, script)
    assert hooked == unhooked
    assert None not in hooked
    assert signer.asked == []


def test_the_agent_decides_and_its_sentence_is_the_error(folder, env, signer):
    found = node(
        folder,
        env,
        HELPERS
        + """
const key = { key: placeholder, padding };
const sign = (length) => attempt(() => crypto.privateEncrypt(key, Buffer.alloc(length)));
console.log(JSON.stringify([51, 0, 48, 245].map(sign)));
""",
    )
    for length, answer in zip((51, 0, 48, 245), found, strict=True):
        assert answer.startswith(f"error: privyseal: {length} bytes are neither a session key nor a SHA-256 checksum")
    assert signer.asked == []


KEY_FILE = """
import fs, { existsSync, readFileSync, statSync, accessSync, readdirSync } from 'node:fs';
import { access, readFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buffer } from 'node:stream/consumers';
import { promisify } from 'node:util';
const placeholder = readFileSync(process.env.PRIVYSEAL_PLACEHOLDER_KEY, 'utf8');
const attempt = async (make) => { try { return await make(); } catch (error) { return error.code; } };
const look = async (path) => [
  existsSync(path),
  await attempt(() => readFileSync(path, 'utf8') === placeholder),
  await attempt(() => readFileSync(path).toString() === placeholder),
  await attempt(() => statSync(path).isFile()),
  await attempt(() => accessSync(path) === undefined),
  await attempt(async () => (await readFile(path, 'utf8')) === placeholder),
  await attempt(async () => (await fs.promises.stat(path)).isFile()),
  await attempt(async () => (await stat(path)).isFile()),
  await attempt(async () => (await access(path)) === undefined),
  await attempt(async () => (await promisify(fs.readFile)(path, 'utf8')) === placeholder),
  await attempt(async () => (await buffer(fs.createReadStream(path))).toString() === placeholder),
];
const paths = process.argv.slice(2);
const answers = {};
for (const path of paths) answers[path] = await look(path);
answers.url = await look(pathToFileURL(resolve('.capgo_key_v2')));
answers.bytes = await look(Buffer.from('.capgo_key_v2'));
answers.listed = readdirSync('.').includes('.capgo_key_v2');
console.log(JSON.stringify(answers));
"""


def test_the_key_file_is_there_for_hooked_processes_alone_and_in_the_working_folder_alone(folder, env, tmp_path):
    absolute = str(folder.resolve() / ".capgo_key_v2")
    here = [".capgo_key_v2", "./.capgo_key_v2", absolute]
    elsewhere = ["../.capgo_key_v2", "deeper/.capgo_key_v2", ".capgo_key_v2.pub", "not.capgo_key_v2", ".capgo_key"]
    arguments = [*here, *elsewhere]
    found = node(folder, env, KEY_FILE, arguments=arguments)
    yes, no = [True] * 11, [False, *["ENOENT"] * 10]
    assert found == {
        **dict.fromkeys([*here, "url", "bytes"], yes),
        **dict.fromkeys(elsewhere, no),
        "listed": False,
    }
    unhooked = {name: value for name, value in env.items() if name != "NODE_OPTIONS"}
    assert set(map(str, node(folder, unhooked, KEY_FILE, arguments=arguments).values())) == {str(no), "False"}
    assert not (folder / ".capgo_key_v2").exists()


def test_what_is_no_path_is_answered_as_before(folder, env):
    script = """
import fs from 'node:fs';
import { readFile } from 'node:fs/promises';
const attempt = async (make) => { try { return String(await make()); } catch (error) { return error.code; } };
fs.writeFileSync('file', 'text');
const handle = await fs.promises.open('file');
const odd = [undefined, null, 7.5, {}, Object.create(null), Symbol('x'), new URL('http://a/.capgo_key_v2'), 'a\\0b'];
const answers = [];
for (const path of odd) {
  answers.push(fs.existsSync(path), await attempt(() => fs.statSync(path)), await attempt(() => readFile(path)));
}
answers.push(await attempt(() => readFile(handle)), fs.readFileSync(fs.openSync('file'), 'utf8'));
console.log(JSON.stringify(answers));
await handle.close();
"""
    hooked = node(folder, env, script)
    unhooked = node(folder, {name: value for name, value in env.items() if name != "NODE_OPTIONS"}, script)
    assert hooked == unhooked
    assert hooked[-2:] == ["text", "text"]


def test_a_real_key_file_is_hidden_and_not_touched(folder, env):
    (folder / ".capgo_key_v2").write_bytes(PRIVATE_KEY.read_bytes())
    script = "const fs = require('fs'); console.log(JSON.stringify(fs.readFileSync('.capgo_key_v2', 'utf8')))"
    assert node(folder, env, script, name="script.cjs") == child.PLACEHOLDER.read_text()
    assert (folder / ".capgo_key_v2").read_bytes() == PRIVATE_KEY.read_bytes()


def test_options_of_node_that_were_there_are_in_force(folder, tmp_path, signer):
    (folder / "own.mjs").write_text(
        "import { appendFileSync } from 'node:fs'; globalThis.own = 'loaded'; appendFileSync('loaded', 'x');"
    )
    base = {**os.environ, "NODE_OPTIONS": f"--import {(folder / 'own.mjs').as_uri()} --stack-trace-limit=3"}
    with Agent(tmp_path / "agent", signer, signer.public_key, lambda _: None):
        env = child.environment(base, tmp_path, tmp_path / "agent", 5)
        script = HELPERS + (
            "console.log(JSON.stringify([globalThis.own, Error.stackTraceLimit,"
            " attempt(() => crypto.privateEncrypt(placeholder, checksum))]));"
        )
        assert node(folder, env, script) == ["loaded", 3, EXPECTED]
    assert (folder / "loaded").read_text() == "x"  # by the script's own thread, and not by the hook's worker


SIGN_TWICE = HELPERS + (
    "const sign = () => attempt(() => crypto.privateEncrypt(placeholder, checksum));"
    "console.log(JSON.stringify([sign(), sign()]));"
)


def test_without_an_agent_nothing_is_signed(folder, tmp_path, env):
    gone = {**env, "PRIVYSEAL_AGENT_SOCKET": str(tmp_path / "gone")}
    for answer in node(folder, gone, SIGN_TWICE):
        assert answer.startswith("error: privyseal: the signing agent is gone (")
    unset = {name: value for name, value in env.items() if name != "PRIVYSEAL_AGENT_SOCKET"}
    for answer in node(folder, unset, SIGN_TWICE):
        assert answer == "error: privyseal: no signing agent is here; use `privyseal exec`"


@contextmanager
def agent_that(answers, path):
    """Calls `answers` with each connection and its number, in a thread of its own."""
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(4) as pool, ExitStack() as connections:
        listener.bind(str(path))
        listener.listen()

        def accept():
            for number in itertools.count():
                try:
                    connection = connections.enter_context(listener.accept()[0])
                except OSError:
                    return
                pool.submit(answers, connection, number)

        accepting = pool.submit(accept)
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.result()


def scripted_agent(path, pieces, *, then_close=False):
    """Reads a question from each connection, and answers it with these pieces."""

    def answer(connection, _):
        connection.recv(4096)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        if then_close:
            connection.close()

    return agent_that(answer, path)


def test_an_agent_that_does_not_answer_is_not_waited_for_without_end(folder, tmp_path, env):
    with scripted_agent(tmp_path / "silent", []):
        other = {**env, "PRIVYSEAL_AGENT_SOCKET": str(tmp_path / "silent"), "PRIVYSEAL_AGENT_TIMEOUT_MS": "300"}
        answers = node(folder, other, SIGN_TWICE)
    assert answers == ["error: privyseal: the signing agent did not answer in time"] * 2


def test_a_late_answer_is_not_the_answer_to_the_next_question(folder, tmp_path, env):
    delayed = threading.Event()

    def answer(connection, number):
        question = json.loads(connection.recv(4096))
        if number == 0:
            delayed.wait(20)
        else:
            delayed.set()
            time.sleep(0.1)  # time for the late answer to arrive first
        connection.sendall(json.dumps({"signature": question["data"]}).encode() + b"\n")

    script = (
        HELPERS
        + """
const sign = (data) => attempt(() => crypto.privateEncrypt(placeholder, data));
console.log(JSON.stringify([sign(Buffer.alloc(32, 1)), sign(Buffer.alloc(32, 2))]));
"""
    )
    with agent_that(answer, tmp_path / "late"):
        other = {**env, "PRIVYSEAL_AGENT_SOCKET": str(tmp_path / "late"), "PRIVYSEAL_AGENT_TIMEOUT_MS": "2000"}
        answers = node(folder, other, script)
    assert answers == ["error: privyseal: the signing agent did not answer in time", "02" * 32]


def test_an_agent_that_goes_away_in_the_middle_is_an_error(folder, tmp_path, env):
    with scripted_agent(tmp_path / "brief", [b'{"signat'], then_close=True):
        answers = node(folder, {**env, "PRIVYSEAL_AGENT_SOCKET": str(tmp_path / "brief")}, SIGN_TWICE)
    assert answers == ["error: privyseal: the signing agent is gone (it closed the connection)"] * 2


def test_an_answer_in_pieces_is_put_together(folder, tmp_path, env):
    with scripted_agent(tmp_path / "slow", [b'{"signature": "', b"AAEC", b'"}\n']):
        other = {**env, "PRIVYSEAL_AGENT_SOCKET": str(tmp_path / "slow")}
        script = HELPERS + "console.log(JSON.stringify(attempt(() => crypto.privateEncrypt(placeholder, checksum))));"
        assert node(folder, other, script) == "000102"


def test_the_placeholder_is_junk_to_every_library(folder):
    placeholder = child.PLACEHOLDER
    script = f"""
const {{ createPrivateKey, createPublicKey, privateEncrypt }} = require('crypto');
const pem = require('fs').readFileSync({json.dumps(str(placeholder))}, 'utf8');
const attempt = (make) => {{ try {{ make(); return 'accepted'; }} catch {{ return 'refused'; }} }};
console.log(JSON.stringify([
  attempt(() => createPrivateKey(pem)),
  attempt(() => createPublicKey(pem)),
  attempt(() => privateEncrypt(pem, Buffer.alloc(32))),
]));
"""
    unhooked = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    assert node(folder, unhooked, script, name="script.cjs") == ["refused"] * 3
    done = subprocess.run(["openssl", "rsa", "-in", placeholder, "-noout"], capture_output=True, check=False)
    assert done.returncode != 0


def cli_of(folder: Path, version: str) -> Path:
    """A package that is called @capgo/cli and signs a checksum."""
    package = folder / "node_modules" / "@capgo" / "cli"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": "@capgo/cli", "version": version, "type": "module"}))
    (package / "dist" / "package.json").write_text("{}")
    (package / "dist" / "index.js").write_text(
        HELPERS + "console.log(attempt(() => crypto.privateEncrypt(placeholder, checksum)));"
    )
    links = folder / "node_modules" / ".bin"
    links.mkdir()
    (links / "capgo").symlink_to("../@capgo/cli/dist/index.js")
    return links / "capgo"


def test_the_version_of_the_cli_is_told_by_its_own_manifest(folder, tmp_path, signer):
    versions = []
    with Agent(tmp_path / "agent", signer, signer.public_key, versions.append):
        env = child.environment(dict(os.environ), tmp_path, tmp_path / "agent", 5)
        done = subprocess.run(
            ["node", cli_of(folder, "9.1.0-beta.2")], cwd=folder, env=env, capture_output=True, text=True, timeout=200
        )
        assert done.stdout.strip() == EXPECTED
        subprocess.run(["node", "-e", "0"], cwd=folder, env=env, check=True, timeout=200)
        node(folder, env, SIGN_TWICE)
        subprocess.run(
            ["node", "--input-type=module", "-e", SIGN_TWICE], cwd=folder, env=env, check=True, timeout=30,
            capture_output=True,
        )  # fmt: skip
    assert versions == ["9.1.0-beta.2", None]
