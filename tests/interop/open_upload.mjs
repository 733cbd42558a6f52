// Opens what was uploaded, as a device would, with node's own crypto and none of Privyseal's code.
// Argument: a folder with upload.json ({ format, publicKey, version, manifest, objects: { path: file } }). It writes
// opened.json ({ zip: file, keyId, files: { name: file } }) and the opened files beside it, or fails.
import { strict as assert } from 'node:assert';
import { constants, createDecipheriv, createHash, publicDecrypt } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

const folder = process.argv[2];
const { format, publicKey, version, manifest, objects } = JSON.parse(readFileSync(join(folder, 'upload.json'), 'utf8'));
assert(publicKey.startsWith('-----BEGIN RSA PUBLIC KEY-----'));

const recover = (block) => publicDecrypt({ key: publicKey, padding: constants.RSA_PKCS1_PADDING }, block);
const encoding = format === 'capgo-v3' ? 'hex' : 'base64';

// V3 signs the 32 bytes of a checksum, V2 what base64-decoding its hex text gives.
function recoverChecksum(field) {
  const block = Buffer.from(field, encoding);
  assert.equal(block.length, 256);
  assert.equal(block.toString(encoding), field);
  const data = recover(block);
  return format === 'capgo-v3' ? data.toString('hex') : data.toString('base64');
}

const [iv, wrapped] = version.session_key.split(':').map((part) => Buffer.from(part, 'base64'));
assert.equal(wrapped.length, 256);
const sessionKey = recover(wrapped);
assert.equal(sessionKey.length, 16);

function open(path) {
  const decipher = createDecipheriv('aes-128-cbc', sessionKey, iv);
  return Buffer.concat([decipher.update(readFileSync(join(folder, objects[path]))), decipher.final()]);
}

const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const opened = { zip: null, files: {} };
mkdirSync(join(folder, 'opened'));

const zipPath = Object.keys(objects).find((path) => path.endsWith(`/${version.name}.zip`));
if (zipPath) {
  const zip = open(zipPath);
  assert.equal(sha256(zip), recoverChecksum(version.checksum));
  opened.zip = join('opened', 'bundle.zip');
  writeFileSync(join(folder, opened.zip), zip);
}
manifest.forEach(({ file_name: name, s3_path: path, file_hash: hash }, index) => {
  assert(path in objects, `${path} was not uploaded`);
  const body = open(path);
  const file = name.endsWith('.br') ? brotliDecompressSync(body) : body;
  assert.equal(sha256(file), recoverChecksum(hash));
  opened.files[name.replace(/\.br$/, '')] = join('opened', String(index));
  writeFileSync(join(folder, 'opened', String(index)), file);
});
const used = new Set([zipPath, ...manifest.map((entry) => entry.s3_path)]);
assert.deepEqual(Object.keys(objects).filter((path) => !used.has(path)), []);
writeFileSync(join(folder, 'opened.json'), JSON.stringify(opened));
