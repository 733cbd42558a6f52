// The published CodePush CLI: `hash FOLDER…` prints content hashes; `sign FOLDER PRIVATE_PEM` writes a release file as
// its release command does, which without a key deletes one; `verify RELEASE_FILE PUBLIC_PEM` prints what a JWT says.
const fs = require("node:fs");
const path = require("node:path");

const load = (name) => require(path.resolve("node_modules", name));
const hashes = load("code-push-cli/script/hash-utils.js");
const sign = load("code-push-cli/script/release-hooks/signing.js");
const jwt = load("jsonwebtoken");

const [command, ...rest] = process.argv.slice(2);
console.log = console.error; // the CLI's own words
const print = (value) => process.stdout.write(JSON.stringify(value));

(async () => {
  if (command === "hash") {
    const found = [];
    for (const folder of rest) {
      found.push(await hashes.generatePackageHashFromDirectory(folder, path.join(folder, "..")));
    }
    print(found);
  } else if (command === "sign") {
    await sign({ package: rest[0], privateKeyPath: rest[1] });
  } else {
    print(jwt.verify(fs.readFileSync(rest[0], "utf8"), fs.readFileSync(rest[1]), { algorithms: ["RS256"], complete: true }));
  }
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
