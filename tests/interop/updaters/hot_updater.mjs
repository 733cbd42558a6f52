// A device's check of what hot-updater published, as its SignatureVerifier has it: SHA256withRSA over the 32 bytes of a
// file's SHA-256. Arguments: public.pem manifest.json FILE=HASH…; prints whether each hash and each asset's signature
// holds.
import crypto from "node:crypto";
import fs from "node:fs";

const [publicPem, manifest] = process.argv.slice(2, 4).map((file) => fs.readFileSync(file));

const holds = (digest, signature) =>
  crypto.createVerify("RSA-SHA256").update(digest).verify(publicPem, signature, "base64");

const files = process.argv.slice(4).map((pair) => {
  const at = pair.indexOf("=");
  const [file, hash] = [pair.slice(0, at), pair.slice(at + 1)];
  const digest = crypto.createHash("sha256").update(fs.readFileSync(file)).digest();
  return hash.startsWith("sig:") && holds(digest, hash.slice(4));
});
const assets = Object.entries(JSON.parse(manifest).assets).map(([name, { fileHash, signature }]) => [
  name,
  holds(Buffer.from(fileHash, "hex"), signature),
]);
console.log(JSON.stringify({ files, assets: Object.fromEntries(assets) }));
