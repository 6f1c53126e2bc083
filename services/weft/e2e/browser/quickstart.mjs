// Opens a quick start of the README as a page in Chromium: `node quickstart.mjs <file>` bundles the file with the client of
// this repository, serves it, and prints what the page logs and, after each change, what it shows. It goes on until it is
// told to end.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { launch } from './chromium.mjs';

// The client's own folder has the bundler and React, which its tests use too.
const client = fileURLToPath(new URL('../../../../shared/client/ts/', import.meta.url));
const { build } = createRequire(client)('esbuild');

const { outputFiles } = await build({
  entryPoints: { main: process.argv[2] },
  bundle: true,
  format: 'esm',
  splitting: true,
  write: false,
  outdir: '/',
  jsx: 'automatic',
  nodePaths: [join(client, 'node_modules')],
  alias: { '@weft/client': join(client, 'src/index.ts'), '@weft/client/react': join(client, 'src/react.ts') },
});
const files = new Map(outputFiles.map(({ path, contents }) => [path, contents]));

const PAGE = '<!doctype html><title>Quick start</title><div id="root"></div><script type="module" src="main.js"></script>';
const server = createServer(({ url }, response) => {
  const script = files.get(url);
  response.setHeader('Content-Type', script ? 'text/javascript' : 'text/html');
  response.end(script ?? PAGE);
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));

const browser = await launch();
browser.on('disconnected', () => process.exit()); // told to end, playwright closes it
const page = await browser.newPage();
page.on('console', (message) => console.log(`console: ${message.text()}`));
page.on('pageerror', (error) => console.log(`error: ${error.stack}`));
await page.exposeFunction('shown', (text) => console.log(`page: ${text}`));
await page.addInitScript(() => {
  new MutationObserver(() => globalThis.shown(document.body?.innerText)).observe(document, { subtree: true, childList: true, characterData: true });
});
await page.goto(`http://127.0.0.1:${server.address().port}/`);
