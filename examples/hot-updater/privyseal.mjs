// Signs what `hot-updater deploy` uploads with a key at a Privyseal service, for a hot-updater.config.ts:
//
//     const { storage, database } = signedByPrivyseal({ storage: s3Storage({…}), database: s3Database({…}) });
//     export default defineConfig({ storage, database, … });
//
// `privyseal` has to be on the PATH, with its settings in the environment. No `signing` belongs into the configuration:
// that is hot-updater's own, with a private key in a file.
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

async function sign(file, ...flags) {
  const { stdout } = await run("privyseal", ["sign", "hot-updater", file, ...flags]);
  return stdout.trim();
}

/** The object with some of its properties replaced, whatever its others are made of. */
function replacing(object, properties) {
  return Object.assign(Object.create(object), properties);
}

export function signedByPrivyseal({ storage, database }) {
  const hashes = new Map(); // the signed hash of each archive and manifest, by where it was uploaded to

  const signingStorage = async () => {
    const plugin = await storage();
    const node = replacing(plugin.profiles.node, {
      async upload(key, file) {
        if (!key.startsWith("bundles/")) return plugin.profiles.node.upload(key, file); // an asset: its manifest has it
        const hash = await sign(file, ...(path.basename(file) === "manifest.json" ? ["--assets"] : []));
        const uploaded = await plugin.profiles.node.upload(key, file);
        hashes.set(uploaded.storageUri, hash);
        return uploaded;
      },
    });
    return replacing(plugin, { profiles: replacing(plugin.profiles, { node }) });
  };

  const signedHash = (uri) => {
    const hash = hashes.get(uri);
    if (hash === undefined) throw new Error(`${uri} was not signed, so its bundle is not published`);
    return hash;
  };

  const signingDatabase = async () => {
    const plugin = await database();
    return replacing(plugin, {
      async appendBundle(bundle, ...rest) {
        const signed = {
          ...bundle,
          fileHash: signedHash(bundle.storageUri),
          manifestFileHash: signedHash(bundle.manifestStorageUri),
        };
        return plugin.appendBundle(signed, ...rest);
      },
    });
  };

  return { storage: signingStorage, database: signingDatabase };
}
