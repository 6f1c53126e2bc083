// Builds the package into dist: ESM by esbuild, declarations by tsc. Prints what the core costs a page, minified and gzipped,
// and fails when that is too much. What is loaded on demand (tabs) is told apart.

import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

import { build } from 'esbuild';
import { minify } from 'terser';

const CORE_MOST = 4096; // bytes: everything that `import { connect } from '@weft/client'` loads at once
const here = fileURLToPath(new URL('.', import.meta.url));
const { exports, peerDependencies = {} } = JSON.parse(readFileSync(`${here}package.json`, 'utf8'));
const names = Object.values(exports).flatMap(({ default: file }) => file?.match(/^\.\/dist\/(.+)\.js$/)?.[1] ?? []);
const options = {
  entryPoints: names.map((name) => `src/${name}.ts`),
  absWorkingDir: here,
  external: Object.keys(peerDependencies),
  bundle: true,
  splitting: true,
  chunkNames: '[name]',
  format: 'esm',
  target: 'es2022',
  outdir: 'dist',
  metafile: true,
};

rmSync(`${here}dist`, { recursive: true, force: true });
await build({ ...options, sourcemap: true });
execFileSync('node', [fileURLToPath(import.meta.resolve('typescript/bin/tsc')), '-p', 'tsconfig.build.json'], { cwd: here, stdio: 'inherit' });

const { metafile, outputFiles } = await build({ ...options, entryPoints: ['src/index.ts'], minify: true, write: false });
const terse = async ({ path, text }) => [path.slice(here.length), (await minify(text, { module: true, ecma: 2022, compress: { passes: 3 } })).code];
const files = new Map(await Promise.all(outputFiles.map(terse)));

/** All outputs that loading some loads at once. */
function loaded(...outputs) {
  const all = new Set(outputs);
  for (const file of all) for (const { path, kind } of metafile.outputs[file].imports) if (kind === 'import-statement') all.add(path);
  return all;
}

// Each file is compressed by itself, as a server does.
const size = (outputs) => [...outputs].reduce((sum, file) => sum + gzipSync(files.get(file), { level: 9 }).length, 0);
const core = loaded('dist/index.js');
console.log(`core: ${size(core)} bytes minified and gzipped; less than ${CORE_MOST} are allowed`);
for (const file of core) {
  for (const { path, kind } of metafile.outputs[file].imports) {
    if (kind !== 'dynamic-import') continue;
    const name = metafile.outputs[path].entryPoint?.match(/([^/]+)\.ts$/)?.[1] ?? path;
    console.log(`${name}, on demand: ${size([...loaded(path)].filter((chunk) => !core.has(chunk)))} bytes`);
  }
}
if (size(core) >= CORE_MOST) {
  console.error('The core is too large.');
  process.exit(1);
}
