// Seal a zip for Capgo V3 with a key at a Privyseal service: node seal.mjs app.zip KEY
//
// It writes app.zip_encrypted.zip and prints what `capgo bundle encrypt --json` prints. The API is read from proto/ when
// it starts; nothing is generated. PRIVYSEAL_SERVER, _CA, _CERT and _CERT_KEY say where the service is, and who asks.
import { constants, createCipheriv, createHash, createPublicKey, publicDecrypt, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../../proto", import.meta.url));
const DEADLINE_MS = 20_000; // the whole call, its retries included

// Both codes say that the same call may go well in a moment; docs/clients.md says why no other does.
const RETRIES = JSON.stringify({
  methodConfig: [
    {
      name: [{ service: "privyseal.v1.SigningService" }, { service: "privyseal.v1.KeyService" }],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
  ],
});

function connect(environ) {
  const definition = protoLoader.loadSync("privyseal/v1/keys.proto", {
    includeDirs: [PROTO],
    enums: String,
    defaults: true,
    keepCase: true,
  });
  const { SigningService, KeyService } = grpc.loadPackageDefinition(definition).privyseal.v1;
  const [ca, certKey, cert] = ["CA", "CERT_KEY", "CERT"].map((name) => readFileSync(environ[`PRIVYSEAL_${name}`]));
  const credentials = grpc.credentials.createSsl(ca, certKey, cert);
  const options = { "grpc.service_config": RETRIES };
  return [SigningService, KeyService].map((Service) => new Service(environ.PRIVYSEAL_SERVER, credentials, options));
}

/** One call with a deadline; the error of a failed one says under which id the service recorded it. */
function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline: Date.now() + DEADLINE_MS }, (error, answer) => {
      if (!error) return resolve(answer);
      const [requestId] = error.metadata?.get("privyseal-request-id") ?? [];
      reject(new Error(`${grpc.status[error.code]}: ${error.details}${requestId ? ` (request ${requestId})` : ""}`));
    });
  });
}

/** What a device does with a signature: undo the type-1 block with the public key. Throws where there is none. */
function recover(publicKey, signature) {
  return publicDecrypt({ key: publicKey, padding: constants.RSA_PKCS1_PADDING }, signature);
}

async function seal(path, name) {
  const zip = readFileSync(path);
  const [sessionKey, iv] = [randomBytes(16), randomBytes(16)];
  const checksum = createHash("sha256").update(zip).digest();
  const [signing, keys] = connect(process.env);
  try {
    const { key } = await call(keys, "GetKey", { name });
    const publicKey = createPublicKey(key.public_key.spki_pem);
    const [{ wrapped_key }, { signature }] = await Promise.all([
      call(signing, "WrapSessionKey", { key: key.name, session_key: sessionKey, scheme: "WRAP_SCHEME_CAPGO" }),
      call(signing, "SignChecksum", { key: key.name, checksum, scheme: "SIGNATURE_SCHEME_CAPGO_V3" }),
    ]);
    if (!recover(publicKey, wrapped_key).equals(sessionKey) || !recover(publicKey, signature).equals(checksum)) {
      throw new Error("the service's answer does not verify with its public key; nothing of it was used");
    }
    const cipher = createCipheriv("aes-128-cbc", sessionKey, iv);
    const sealed = `${path}_encrypted.zip`;
    writeFileSync(sealed, Buffer.concat([cipher.update(zip), cipher.final()]));
    return {
      checksum: signature.toString("hex"),
      filename: basename(sealed),
      ivSessionKey: `${iv.toString("base64")}:${wrapped_key.toString("base64")}`,
    };
  } finally {
    signing.close();
    keys.close();
  }
}

const [path, key = ""] = process.argv.slice(2);
if (!path) {
  console.error("usage: node seal.mjs ZIP [KEY]");
  process.exitCode = 2;
} else {
  try {
    console.log(JSON.stringify(await seal(path, key), null, 2));
  } catch (error) {
    console.error(`seal: ${error.message}`);
    process.exitCode = 1;
  }
}
