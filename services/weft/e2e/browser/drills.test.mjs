// The TypeScript client in Chromium, against push nodes that are killed, networks that go away, tokens that expire and
// tabs that are closed. Each drill ends with every message exactly once and in order in the record of each tab, and with
// the device at the head for the server. Run by TestBrowserDrills, on `weft dev` and on `weft up`.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, afterEach, before, test } from 'node:test';

import { launch } from './chromium.mjs';
import { Fabric, serve, Stream, Tab } from './drill.mjs';
import { Line } from './line.mjs';
import { Person } from './person.mjs';

const SOME = 300; // messages after which a stream counts as under way
const AWAY = 10_000;

const fabric = new Fabric();
const run = randomBytes(4).toString('hex');
const closers = []; // what the present drill has opened
let browser, site;

before(async () => {
  browser = await launch();
  site = await serve(fabric);
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});
after(async () => {
  site?.close();
  await fabric.close();
  await browser?.close();
});

async function visitor(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, reducedMotion: 'reduce', ...options });
  closers.push(() => context.close());
  return context;
}

// lay opens a line to each push node.
async function lay() {
  const lines = await Promise.all(fabric.manifest.push.map((url) => Line.lay(url)));
  closers.push(() => lines.forEach((line) => line.close()));
  return lines;
}

// begin is a new user with one tab, and the stream that is meant for that user.
async function begin(name, asked = {}) {
  const user = `${name}-${run}`;
  const context = await visitor();
  const open = (more = {}) => Tab.open(context, site.origin, { urls: fabric.manifest.push, user, ...asked, ...more });
  const tab = await open();
  const stream = new Stream(fabric, user);
  return { user, context, open, tab, stream };
}

// settled checks what must be true at the end: of each tab that is still there, and of the device. missed: a tab may have been
// away for longer than the others remember, and then must have been told so.
async function settled({ user, context }, tabs, n, { missed = false } = {}) {
  const to = `user:${user}`;
  for (const tab of tabs) {
    if (missed) await tab.until((wanted) => drill.newest >= wanted, n).catch(late);
    else await tab.has(n);
    const record = await tab.get('record');
    const told = record.flatMap(([address, seq, id, last]) => (last && missed && id === 'away' ? range(seq, last).map((i) => [address, i, `n-${i}`]) : [[address, seq, id]]));
    assert.deepEqual(told, range(1, n).map((i) => [to, i, `n-${i}`]), `${fault(told)}; the page says ${await tab.get('troubles')}`);
    assert.deepEqual(tab.errors, []);
    assert.doesNotMatch((await tab.get('troubles')).join('\n'), /hole|failed/);
    if (missed) console.log(`a tab that was loaded again and again: ${record.filter(([, , , last]) => last).length} gaps, all told`);
  }
  await Promise.any(tabs.map((tab) => tab.acknowledged(to, n)));
  const device = await tabs[0].get('device');
  await context.close();
  const { head, next } = (await fabric.place(user, device))[to];
  assert.deepEqual({ head, next }, { head: n, next: n + 1 }, 'what the server knows to be handled');
}

const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

// late lets a wait end: what is missing is told by whoever compares.
function late(error) {
  if (error.name !== 'TimeoutError') throw error;
}

// fault is where a record first differs from what it should be, in words.
function fault(record) {
  const i = record.findIndex(([, seq], n) => seq !== n + 1);
  return i < 0 ? `${record.length} messages in order` : `No. ${record[i][1]} came after ${i ? record[i - 1][1] : 'nothing'}`;
}

test('a push node is killed in the middle of a stream', async () => {
  // While one message takes its time those behind it are handled and not acknowledged: the next node sends them again.
  const drill = await begin('killed', { slow: 5, stuck: 3_000 });
  const { tab, stream } = drill;
  stream.begin();
  for (const round of [1, 2]) {
    await tab.has(round * SOME);
    const at = new URL((await tab.get('sockets')).at(-1).url);
    const begun = performance.now();
    await fabric.kill(`http://${at.host}`);
    await tab.until((n) => drill.sockets.filter(({ code }) => code).length >= n, round);
    await fabric.start();
    await tab.is('open');
    const before = await tab.get('count');
    await tab.has(before + SOME);
    console.log(`node killed: ${before} messages before, open again within ${Math.round(performance.now() - begun)} ms (its restart included)`);
  }
  await settled(drill, [tab], await stream.end());
});

test('a page is loaded again in the middle of a stream, six times', async () => {
  const lines = await lay();
  const drill = await begin('reloaded', { urls: lines.map(({ url }) => url) });
  const { tab, stream } = drill;
  stream.begin();
  for (let i = 1; i <= 6; i++) {
    await tab.has(i * (SOME / 3));
    // Every other time its last acknowledgements are lost: then only the page knows how far it was.
    if (i % 2) for (const line of lines) line.cut();
    for (const line of lines) line.mend();
    await tab.reload();
  }
  await settled(drill, [tab], await stream.end());
});

test('two tabs share a connection and are loaded again in turn, six times', async () => {
  const drill = await begin('turns');
  const tabs = [drill.tab, await drill.open()];
  drill.stream.begin();
  for (let i = 1; i <= 6; i++) {
    for (const tab of tabs) await tab.until((wanted) => drill.newest >= wanted, i * (SOME / 3));
    await tabs[i % 2].reload();
  }
  await settled(drill, tabs, await drill.stream.end(), { missed: true });
});

test('a browser is offline in the middle of a stream, and back', async () => {
  const lines = await lay();
  const drill = await begin('offline', { urls: lines.map(({ url }) => url) });
  const { tab, stream, context } = drill;
  stream.begin();
  for (const round of [1, 2]) {
    await tab.has(round * SOME);
    for (const line of lines) line.cut();
    await context.setOffline(true);
    const cut = performance.now();
    await tab.is('waiting'); // found out by the client alone
    const noticed = performance.now();
    const before = await tab.get('count');
    await tab.until((n) => drill.statuses.filter(({ state }) => state === 'waiting').length > n, (await tab.get('statuses')).filter(({ state }) => state === 'waiting').length);
    for (const line of lines) line.mend();
    const back = performance.now();
    await context.setOffline(false);
    await tab.is('open');
    await tab.has(before + 1);
    console.log(`offline: noticed after ${Math.round(noticed - cut)} ms, open ${Math.round(performance.now() - back)} ms after the network was back`);
  }
  await settled(drill, [tab], await stream.end());
});

test('a token expires while connected: another one is handed over, on the same socket', async () => {
  const drill = await begin('renewed', { ttl: '8s' });
  const { tab, stream } = drill;
  stream.begin();
  await tab.until(() => drill.reasons.filter((reason) => reason === 'expired').length >= 2);
  const before = await tab.get('count');
  await tab.has(before + SOME);
  const [sockets, reasons] = [await tab.get('sockets'), await tab.get('reasons')];
  assert.deepEqual(sockets.map(({ code }) => code), [0], 'one socket, open to the end');
  assert.deepEqual([...new Set(reasons)], ['connect', 'expired']);
  await settled(drill, [tab], await stream.end());
});

test('a token expires and none is to be had for a while: the device comes back when there is one', async () => {
  const drill = await begin('expired', { ttl: '3s' });
  const { tab, stream } = drill;
  stream.begin();
  await tab.has(SOME);
  await tab.page.evaluate(() => (drill.tokenless = true));
  await tab.until(() => drill.sockets[0].code === 4401);
  await tab.is('waiting');
  await tab.page.evaluate(() => (drill.tokenless = false));
  await tab.is('open');
  assert.equal((await tab.get('sockets')).length, 2);
  await settled(drill, [tab], await stream.end());
});

for (const [how, end] of Object.entries({
  closed: (page) => page.close(),
  crashes: (page) => Promise.all([page.waitForEvent('crash'), page.goto('chrome://crash').catch(() => {})]),
})) {
  test(`the tab that holds the connection ${how === 'closed' ? 'is closed' : 'crashes'}: another one goes on`, async () => {
    const drill = await begin(how, { slow: 5, stuck: 1_500 });
    const tabs = [drill.tab, await drill.open(), await drill.open()];
    const sockets = () => Promise.all(tabs.map(async (tab) => (await tab.get('sockets')).length));
    assert.deepEqual(await sockets(), [1, 0, 0], 'three tabs share one connection');
    drill.stream.begin();
    while (tabs.length > 1) {
      for (const tab of tabs) await tab.has((4 - tabs.length) * SOME);
      const leader = (await sockets()).findIndex((n) => n > 0);
      const [{ page }] = tabs.splice(leader, 1);
      const gone = performance.now();
      await end(page);
      await Promise.any(tabs.map((tab) => tab.until(() => drill.sockets.length > 0 && drill.state() === 'open')));
      console.log(`leader ${how}: another tab open after ${Math.round(performance.now() - gone)} ms`);
    }
    const before = await tabs[0].get('count');
    await tabs[0].has(before + SOME);
    await settled(drill, tabs, await drill.stream.end());
  });
}

test(`${AWAY.toLocaleString('en')} messages while away`, async () => {
  const drill = await begin('away');
  const { tab, stream, user } = drill;
  // Another device of the user tells when all of them are in the archive.
  const witness = await Tab.open(await visitor(), site.origin, { urls: fabric.manifest.push, user });
  await stream.send(1);
  await tab.has(1);
  await tab.acknowledged(`user:${user}`, 1);
  const address = tab.page.url();
  await tab.page.goto('about:blank');
  await stream.send(AWAY);
  await witness.has(AWAY + 1);
  await witness.page.close();
  await tab.page.goto(address);
  await tab.has(AWAY + 1);
  const handled = await tab.get('last');
  console.log(`${AWAY.toLocaleString('en')} messages while away: handled ${Math.round(handled)} ms after the page was asked for`);
  await settled(drill, [tab], AWAY + 1);
});

test('the demo page tells of a node that was killed, and of the way back', async () => {
  const user = `shown-${run}`;
  const { push } = fabric.manifest;
  const person = await Person.open(await visitor(), push[0]);
  await person.logIn(user);
  const stream = new Stream(fabric, user);
  await stream.send(8);
  await person.received(8);
  await person.acknowledged(`user:${user}`, 8);
  await fabric.kill(push[0]);
  await person.page.waitForSelector('[data-state=waiting]');
  await person.screenshot(`drill-${fabric.kind}-1-waiting`);
  const started = fabric.start();
  await stream.send(5); // with `weft dev` they wait at their publisher until there is a fabric
  await started;
  await person.online();
  const got = await person.received(13);
  assert.deepEqual(got.map(({ seq }) => seq), Array.from({ length: 13 }, (_, i) => i + 1));
  await person.acknowledged(`user:${user}`, 13);
  await person.screenshot(`drill-${fabric.kind}-2-back`);
});
