// What expo-updates does with a signed manifest and its certificate, by Expo's own package and a parser of RFC 8941.
// Arguments: certificate.pem request.csr manifest header [private key of the same key, to compare with].
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.resolve("package.json"));
const expo = require("@expo/code-signing-certificates");
const { md } = require("node-forge");
const { parseDictionary } = await import(require.resolve("structured-headers"));

const [certificatePem, requestPem, manifest, header, privateKeyPem] = process.argv
  .slice(2)
  .map((file) => fs.readFileSync(file));

const certificate = expo.convertCertificatePEMToCertificate(certificatePem.toString());
// It wants a key pair, and of the private key the modulus and the exponent, which are public.
expo.validateSelfSignedCertificate(certificate, { publicKey: certificate.publicKey, privateKey: certificate.publicKey });

const request = expo.convertCSRPEMToCSR(requestPem.toString());
if (!request.verify()) throw new Error("the request does not verify");

const fields = Object.fromEntries(
  [...parseDictionary(header.toString().trim())].map(([name, [value]]) => [name, value]),
);
const signed = (body) => md.sha256.create().update(body.toString("binary")).digest().getBytes();
const verifies = (body) =>
  certificate.publicKey.verify(signed(body), Buffer.from(fields.sig, "base64").toString("binary"));

const answer = {
  commonName: certificate.subject.getField("CN").value,
  requestCommonName: request.subject.getField("CN").value,
  keyid: fields.keyid,
  alg: fields.alg,
  verifies: verifies(manifest),
  verifiesAnother: (() => {
    try {
      return verifies(Buffer.concat([manifest, Buffer.from("\n")]));
    } catch {
      return false;
    }
  })(),
};
if (privateKeyPem) {
  const key = expo.convertPrivateKeyPEMToPrivateKey(privateKeyPem.toString());
  answer.same = expo.signBufferRSASHA256AndVerify(key, certificate, manifest) === fields.sig;
}
console.log(JSON.stringify(answer));
