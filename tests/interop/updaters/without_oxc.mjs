// For `node --import`: hot-updater's scaffolding has a parser with a native part for each system, which deploy does not
// use and the lock file leaves out.
import { register } from "node:module";

const hooks = `export const resolve = (specifier, context, next) =>
  /^oxc-(parser|transform)$/.test(specifier)
    ? { url: "data:text/javascript,export const parseSync = 0, transformSync = 0;", shortCircuit: true }
    : next(specifier, context);`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
