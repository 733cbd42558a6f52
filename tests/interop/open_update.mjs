// Opens a release of `bundle seal` as a device would, with node's own crypto and none of Privyseal's code.
// Arguments: the folder that is served, its base URL, the public key's file, an empty folder for what comes out.
// It writes zip.zip and the delta's files by number, and opened.json ({ names: [name] }), or fails.
import { strict as assert } from 'node:assert';
import { constants, createDecipheriv, createHash, publicDecrypt } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

const [served, baseUrl, keyFile, output] = process.argv.slice(2);
const publicKey = readFileSync(keyFile, 'utf8');
assert(publicKey.startsWith('-----BEGIN RSA PUBLIC KEY-----'));
const update = JSON.parse(readFileSync(join(served, 'update.json'), 'utf8'));

const recover = (block) => publicDecrypt({ key: publicKey, padding: constants.RSA_PKCS1_PADDING }, block);

// Hex is V3, which signs the 32 bytes of a checksum; base64 is V2, which signs what base64-decoding its hex text gives.
function recoverChecksum(field) {
  const v3 = /^[0-9a-f]+$/.test(field);
  const block = Buffer.from(field, v3 ? 'hex' : 'base64');
  assert.equal(block.length, 256);
  return v3 ? recover(block).toString('hex') : recover(block).toString('base64');
}

const [iv, wrapped] = update.session_key.split(':').map((part) => Buffer.from(part, 'base64'));
const sessionKey = recover(wrapped);
assert.equal(sessionKey.length, 16);

function fetched(url) {
  const { href } = new URL(url);
  assert(href.startsWith(`${baseUrl}/`), href);
  const decipher = createDecipheriv('aes-128-cbc', sessionKey, iv);
  const body = readFileSync(join(served, decodeURIComponent(href.slice(baseUrl.length + 1))));
  return Buffer.concat([decipher.update(body), decipher.final()]);
}

const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const zip = fetched(update.url);
assert.equal(sha256(zip), recoverChecksum(update.checksum));
writeFileSync(join(output, 'zip.zip'), zip);
const names = (update.manifest ?? []).map(({ file_name: name, file_hash: hash, download_url: url }, index) => {
  const body = fetched(url);
  const file = name.endsWith('.br') ? brotliDecompressSync(body) : body;
  assert.equal(sha256(file), recoverChecksum(hash));
  assert(file.length > 0);
  writeFileSync(join(output, String(index)), file);
  return name.replace(/\.br$/, '');
});
writeFileSync(join(output, 'opened.json'), JSON.stringify({ names }));
