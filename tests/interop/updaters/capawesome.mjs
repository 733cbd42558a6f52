// Capawesome's CLI signs a zip with a key file, and a device's check of a signature. Arguments: zip public.pem signature
// [private.pem].
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const published = (name) =>
  import(pathToFileURL(path.resolve("node_modules/@capawesome/cli/dist/utils", name)).href);
const { createSignature } = await published("signature.js");
const { createHash } = await published("hash.js");

const [zip, publicPem, signature, privatePem] = process.argv.slice(2).map((file) => fs.readFileSync(file));
// As its plugin has it on Android: SHA256withRSA over the file.
const verifies = crypto.createVerify("RSA-SHA256").update(zip).verify(publicPem, signature.toString().trim(), "base64");
console.log(
  JSON.stringify({
    checksum: await createHash(zip),
    verifies,
    signature: privatePem ? await createSignature(privatePem, zip) : null,
  }),
);
