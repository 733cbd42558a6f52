// Evaluates a capacitor.config.ts or .js as the Capgo CLI does, and writes what `privyseal exec` compares as JSON to a
// file descriptor: { publicKey, privateKey, appId }, or { error }. Arguments: the descriptor, the file, and "named" when
// --capacitor-config named it. It runs the app's own code, which the CLI is about to run too; no agent is up yet.
import { existsSync, readFileSync, realpathSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [descriptor, file, named] = process.argv.slice(2);
const require = createRequire(file);
const canImportTypeScript = Number(process.versions.node.split('.')[0]) >= 22;

async function evaluate() {
  if (file.endsWith('.js')) {
    const module = await require(file);
    return named ? called(module.default ?? module) : module;
  }
  const typescript = compiler(dirname(file)) ?? cliCompiler();
  if (!typescript && !canImportTypeScript) {
    throw new Error('this node cannot read TypeScript; install typescript in the app, or use node 22 or newer');
  }
  const module = typescript ? compiled(typescript) : await import(pathToFileURL(file).href);
  return called(module.default ?? module);
}

function called(config) {
  return typeof config === 'function' ? config() : config;
}

// The app's own compiler, as Capacitor wants it, or else the one that came with a Capgo CLI installed in the app.
function compiler(folder) {
  try {
    const typescript = createRequire(join(folder, 'package.json'))('typescript');
    return typeof typescript.transpileModule === 'function' ? typescript : undefined;
  } catch {
    return undefined; // not installed: the next way is tried
  }
}

function cliCompiler() {
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    const cli = join(folder, 'node_modules', '@capgo', 'cli');
    if (existsSync(cli)) return compiler(realpathSync(cli));
    if (folder === dirname(folder)) return undefined;
  }
}

// Capacitor's settings for the compiler, for the file and for what it requires.
function compiled(typescript) {
  require.extensions['.ts'] = (module, path) => {
    const { outputText } = typescript.transpileModule(readFileSync(path, 'utf8'), {
      fileName: path,
      compilerOptions: {
        module: typescript.ModuleKind.CommonJS,
        moduleResolution: typescript.ModuleResolutionKind.NodeJs,
        esModuleInterop: true,
        strict: true,
        target: typescript.ScriptTarget.ES2017,
      },
    });
    module._compile(outputText, path);
  };
  return require(file);
}

let result;
try {
  const config = await evaluate();
  const updater = config?.plugins?.CapacitorUpdater;
  result = { publicKey: updater?.publicKey ?? null, privateKey: Boolean(updater?.privateKey), appId: config?.appId ?? '' };
} catch (error) {
  result = { error: String(error?.message ?? error).split('\n')[0] };
}
writeSync(Number(descriptor), JSON.stringify(result));
process.exit(0); // whatever the app's configuration left running
