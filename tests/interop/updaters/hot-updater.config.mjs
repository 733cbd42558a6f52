// A project of hot-updater whose plugins are folders: what deploy would upload is in served/, its record in bundle.json.
// SIGNING_KEY is hot-updater's own signing, with that file; SIGNER is the module of a signing wrapper.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const { SIGNING_KEY, SIGNER } = process.env;

const node = {
  async upload(key, file) {
    const to = path.resolve("served", key, path.basename(file));
    fs.mkdirSync(path.dirname(to), { recursive: true });
    fs.copyFileSync(file, to);
    return { storageUri: pathToFileURL(to).href };
  },
  exists: async () => false,
  delete: async () => {},
  downloadFile: async () => {},
};
const folders = {
  storage: async () => ({ name: "folder", supportedProtocol: "file", profiles: { node } }),
  database: async () => ({
    name: "json",
    appendBundle: async (bundle) => fs.writeFileSync("bundle.json", JSON.stringify(bundle)),
    commitBundle: async () => {},
    onUnmount: async () => {},
  }),
};
const { signedByPrivyseal } = SIGNER ? await import(pathToFileURL(SIGNER).href) : {};

export default {
  ...(SIGNER ? signedByPrivyseal(folders) : folders),
  build: async () => ({
    name: "static",
    build: async () => ({
      buildPath: path.resolve("build"),
      bundleId: "01981111-1111-7111-8111-111111111111",
      stdout: null,
    }),
  }),
  updateStrategy: "appVersion",
  compressStrategy: "zip",
  patch: { enabled: false },
  ...(SIGNING_KEY ? { signing: { enabled: true, privateKeyPath: SIGNING_KEY } } : {}),
};
