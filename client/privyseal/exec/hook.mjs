// What `privyseal exec` loads into every node process that it starts, by NODE_OPTIONS. It does two things:
// crypto.privateEncrypt with the placeholder key asks the signing agent, and the placeholder stands where the Capgo CLI
// looks for a key. No private key is here, and none is needed: the agent decides what may be signed.
import crypto from 'node:crypto';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { createConnection } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MessageChannel, Worker, receiveMessageOnPort, workerData } from 'node:worker_threads';

const KEY_FILE = '.capgo_key_v2';
const PLACEHOLDER_PATH = fileURLToPath(new URL('placeholder.pem', import.meta.url));

if (workerData?.privysealAgent) serve(workerData.privysealAgent);
else install();

function install() {
  const placeholder = fs.readFileSync(PLACEHOLDER_PATH, 'utf8').trim();
  const sign = crypto.privateEncrypt;
  crypto.privateEncrypt = function privateEncrypt(key, buffer) {
    const padding = key?.padding || crypto.constants.RSA_PKCS1_PADDING;
    if (padding !== crypto.constants.RSA_PKCS1_PADDING) return sign(key, buffer);
    if (textOf(key?.key ?? key)?.trim() !== placeholder) {
      throw new Error(
        'privyseal: refused to sign with a private key of this machine; under `privyseal exec` the key is at the ' +
          `signing service: take the key's option and file away, or name $PRIVYSEAL_PLACEHOLDER_KEY or ${KEY_FILE}`,
      );
    }
    return ask(bytesOf(buffer, key?.encoding));
  };

  // Functions that read: to them the placeholder is a file of the working folder. Nothing is ever written there.
  for (const name of ['existsSync', 'accessSync', 'statSync', 'lstatSync', 'readFileSync', 'createReadStream']) {
    redirect(fs, name);
  }
  for (const name of ['access', 'stat', 'lstat', 'readFile']) {
    redirect(fs, name);
    redirect(fs.promises, name);
  }
  syncBuiltinESMExports();
}

function redirect(module, name) {
  const original = module[name];
  module[name] = function (path, ...rest) {
    return original.call(this, isKeyFile(path) ? PLACEHOLDER_PATH : path, ...rest);
  };
}

function isKeyFile(path) {
  const name = path instanceof URL && path.protocol === 'file:' ? fileURLToPath(path) : textOf(path);
  return name?.endsWith(KEY_FILE) && resolve(name) === resolve(KEY_FILE);
}

function textOf(value) {
  if (ArrayBuffer.isView(value)) return bytesOf(value).toString('utf8');
  return typeof value === 'string' ? value : undefined;
}

function bytesOf(data, encoding) {
  return ArrayBuffer.isView(data)
    ? Buffer.from(data.buffer, data.byteOffset, data.byteLength)
    : Buffer.from(data, encoding);
}

// The call is synchronous: this thread sleeps while a worker talks to the agent.
let line;

function ask(data) {
  if (!process.env.PRIVYSEAL_AGENT_SOCKET) throw new Error('privyseal: no signing agent is here; use `privyseal exec`');
  line ??= open();
  Atomics.store(line.answered, 0, 0);
  line.port.postMessage(JSON.stringify({ data: data.toString('base64'), cli: line.cli }));
  const outcome = Atomics.wait(line.answered, 0, 0, Number(process.env.PRIVYSEAL_AGENT_TIMEOUT_MS) || 60_000);
  const answer = receiveMessageOnPort(line.port)?.message;
  if (outcome === 'timed-out' || !answer) {
    line.worker.terminate(); // a late answer must not become the answer to the next question
    line = undefined;
    throw new Error('privyseal: the signing agent did not answer in time');
  }
  const { signature, error } = JSON.parse(answer);
  if (!signature) throw new Error(`privyseal: ${error}`);
  return Buffer.from(signature, 'base64');
}

function open() {
  const { port1, port2 } = new MessageChannel();
  const answered = new Int32Array(new SharedArrayBuffer(4));
  const { NODE_OPTIONS, ...env } = process.env; // the worker is not to load this hook, nor anybody else's
  const worker = new Worker(new URL(import.meta.url), {
    workerData: { privysealAgent: { port: port2, answered } },
    transferList: [port2],
    execArgv: [],
    env,
  });
  worker.unref();
  return { worker, port: port1, answered, cli: cliVersion() };
}

function cliVersion() {
  try {
    for (let folder = dirname(fs.realpathSync(process.argv[1])); folder !== dirname(folder); folder = dirname(folder)) {
      const manifest = join(folder, 'package.json');
      if (!fs.existsSync(manifest)) continue;
      const { name, version } = JSON.parse(fs.readFileSync(manifest, 'utf8'));
      if (name === '@capgo/cli') return version;
    }
  } catch {
    // not a script file, or one without a manifest: the agent is told that the version is unknown
  }
  return null;
}

// The worker: one connection, one question at a time, a line of JSON each way.
function serve({ port, answered }) {
  const reply = (text) => {
    port.postMessage(text);
    Atomics.store(answered, 0, 1);
    Atomics.notify(answered, 0);
  };
  let received = '';
  let failure;
  const fail = (error) => {
    failure = JSON.stringify({ error: `the signing agent is gone (${error?.message ?? 'it closed the connection'})` });
    reply(failure);
  };
  const connection = createConnection(process.env.PRIVYSEAL_AGENT_SOCKET);
  connection.setEncoding('utf8');
  connection.on('data', (text) => {
    received += text;
    if (!received.endsWith('\n')) return;
    reply(received);
    received = '';
  });
  connection.on('error', fail);
  connection.on('end', fail);
  port.on('message', (question) => (failure ? reply(failure) : connection.write(`${question}\n`)));
}
