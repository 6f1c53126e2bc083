// The demo page's copy of the TypeScript client is committed, because `go run` has no Node; it must be what the source gives.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { bundle, committed } from '../../../push/demo/bundle.mjs';

test('the client on the demo page is the one in shared/client/ts', async () => {
  const [fresh, old] = await Promise.all([bundle(), committed()]);
  const remedy = 'run node services/push/demo/bundle.mjs';
  assert.deepEqual([...old.keys()].sort(), [...fresh.keys()].sort(), remedy);
  for (const [name, text] of fresh) assert.ok(old.get(name) === text, `${name} is not what the source gives; ${remedy}`);
});
