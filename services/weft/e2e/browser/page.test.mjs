// The demo page in Chromium, against a push node that exists only inside the browser.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { launch } from './chromium.mjs';
import { Desk, ORIGIN, tokenFor } from './desk.mjs';
import { messages } from './payloads.mjs';
import { Person } from './person.mjs';

let browser, context, desk;

before(async () => (browser = await launch()));
after(() => browser.close());
beforeEach(() => begin());
afterEach(() => context.close());

async function begin(options = {}) {
  context = await browser.newContext({ viewport: { width: 1360, height: 860 }, reducedMotion: 'reduce', ...options });
  desk = new Desk();
  await desk.serve(context);
}

const sha256 = (text) => createHash('sha256').update(text).digest('hex');
const seqs = (list) => list.map(({ seq }) => seq);
const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);

async function alice(options) {
  const person = await Person.open(context, ORIGIN);
  await person.logIn('alice', options);
  return person;
}

test('messages are shown with what belongs to them, and the payload opens by keyboard', async () => {
  const person = await alice();
  const data = '{"order" : 7, "total":1e2, "note":"grüße <b>"}';
  desk.publish('user:alice', { type: 'order.paid', data, id: 'order-7' });
  const [message] = await person.received(1);
  assert.deepEqual([message.ch, message.seq, message.id, message.hash], ['user:alice', 1, 'order-7', sha256(data)]);
  const row = person.page.locator('#log .message');
  assert.match(await row.innerText(), /1\s+order\.paid\s+user:alice\s+\d+ ms\s+\d\d:\d\d:\d\d\.\d\d\d/);
  await row.locator('summary').focus();
  await person.page.keyboard.press('Enter');
  await person.page.waitForSelector('.payload pre');
  assert.match(await row.locator('pre').innerText(), /"total": 100/);
  await person.page.waitForFunction((hash) => document.querySelector('.payload').textContent.includes(hash), sha256(data));
  assert.deepEqual(person.faults, []);
});

test('bytes that are not one line of JSON arrive as they were', async () => {
  const person = await alice();
  const bytes = Buffer.from([0, 255, 10, 13, 195, 40]);
  desk.publish('user:alice', { base64: bytes.toString('base64'), contentType: 'application/octet-stream' });
  const [message] = await person.received(1);
  assert.equal(message.hash, sha256(bytes));
});

test('what was missed offline arrives in order, marked and counted, and nothing comes twice', async () => {
  const person = await alice();
  desk.publish('user:alice');
  await person.received(1);
  await person.goOffline();
  for (let i = 0; i < 40; i++) desk.publish('user:alice', { at: Date.now() - 60_000 });
  desk.omit('user:alice', 'expired');
  await person.goOnline();
  const got = await person.received(41);
  assert.deepEqual(seqs(got), upTo(41));
  assert.deepEqual(got.map(({ caughtUp }) => caughtUp), [false, ...Array(40).fill(true)]);
  await person.acknowledged('user:alice', 42);
  const log = await person.page.innerText('#log');
  assert.match(log, /Caught up: 40 messages, and 1 that will not come, in /);
  assert.match(log, /No\. 42 will not come: expired before it could be delivered\./);
  assert.match(log, /41 messages missed\./);
  await person.goOffline();
  await person.goOnline();
  await person.reload();
  desk.publish('user:alice');
  assert.deepEqual(seqs(await person.received(1)), [43], 'after loading the page again only the new one comes');
  assert.equal((await person.counts()).repeats, 0);
  assert.deepEqual(person.faults, []);
});

test('tabs of a browser share one connection, each gets everything, and the next one takes it over', async () => {
  const [one, other] = [await alice(), await alice()];
  desk.publish('user:alice');
  for (const person of [one, other]) assert.deepEqual(seqs(await person.received(1)), [1]);
  assert.equal(desk.hellos.length, 1);
  await one.holds('This tab connects for all 2.');
  await other.holds('Another tab connects for all 2.');
  assert.match(await other.page.innerText('#reason'), /^Connected to node push-7 through another tab\.$/);
  await one.acknowledged('user:alice', 1);
  await other.acknowledged('user:alice', 1);
  await one.screenshot('tabs-1-holds');
  await other.screenshot('tabs-2-shares');
  await one.page.close();
  await other.holds('The only tab of this device.');
  desk.publish('user:alice');
  assert.deepEqual(seqs(await other.received(2)), [1, 2]);
  assert.deepEqual([desk.hellos.length, desk.hellos[1].device, other.faults], [2, desk.hellos[0].device, []]);
});

test('a tab that is taken offline leaves the connection to the others', async () => {
  const [one, other] = [await alice(), await alice()];
  await one.goOffline();
  await other.holds('The only tab of this device.');
  desk.publish('user:alice');
  assert.deepEqual(seqs(await other.received(1)), [1]);
  await one.goOnline();
  await one.holds('Another tab connects for all 2.');
  desk.publish('user:alice');
  for (const person of [one, other]) assert.deepEqual(seqs(await person.received(2)), [1, 2]); // what one has missed it gets from the other
});

test('another device name begins where that device stands', async () => {
  const person = await alice();
  desk.publish('user:alice');
  await person.received(1);
  await person.page.fill('#device', 'laptop');
  await person.page.click('#device-form button');
  assert.deepEqual(seqs(await person.received(2)), [1, 1]);
  assert.equal(desk.hellos.at(-1).device, 'laptop');
});

test('topics are joined and left', async () => {
  const person = await alice({ topics: ['octo-org/octo-repo'] });
  await person.page.fill('#topic', 'news');
  await person.page.keyboard.press('Enter');
  await person.acknowledged('topic:news', 0);
  desk.publish('topic:news');
  desk.publish('topic:octo-org/octo-repo');
  assert.deepEqual((await person.received(2)).map(({ ch }) => ch), ['topic:news', 'topic:octo-org/octo-repo']);
  await person.page.click('[aria-label="Leave topic:news"]');
  await person.page.waitForFunction(() => !document.querySelector('#mailboxes').textContent.includes('news'));
  desk.publish('topic:news');
  desk.publish('all');
  assert.deepEqual((await person.received(3)).map(({ ch }) => ch), ['topic:news', 'topic:octo-org/octo-repo', 'all']);
});

test('a lost connection is told in words and mended without a hand', async () => {
  const person = await alice();
  desk.close(4503, 'draining');
  await person.page.waitForFunction(() => weftDemo.counts.connects === 2);
  assert.match(await person.page.innerText('#log'), /The server node is shutting down\. \(draining\)/);
});

test('while there is no server the page tells when it tries again', async () => {
  const person = await alice();
  desk.reachable = false;
  desk.close(4503, 'draining');
  await person.page.waitForFunction(() => /^The server closed the connection\. Next try (in \d+ s|now)\.$/.test(document.querySelector('#reason').textContent));
  await person.page.waitForSelector('#retry i');
  await person.screenshot('waiting');
  desk.reachable = true;
  await person.online();
  assert.ok(await person.page.isHidden('#retry'));
});

test('a device that was taken over stops and says so, until the person goes online', async () => {
  const person = await alice();
  desk.close(4409);
  await person.page.waitForSelector('[data-state=stopped]');
  assert.match(await person.page.innerText('#reason'), /Another tab or program connected as this device/);
  await person.goOnline();
  assert.equal(desk.hellos.length, 2);
});

test('without tokens from the server the page asks for one, and takes the user out of it', async () => {
  desk.tokens = false;
  const person = await Person.open(context, ORIGIN);
  await person.page.fill('#user', 'anyone');
  await person.page.click('#login-form button.primary');
  await person.page.waitForSelector('#token:focus');
  assert.match(await person.page.innerText('#login-problem'), /gives out no tokens/);
  await person.page.fill('#token', tokenFor('bob'));
  await person.page.keyboard.press('Enter');
  await person.online();
  assert.equal(await person.page.innerText('#who'), 'bob');
  assert.deepEqual(person.faults.filter((fault) => !fault.includes('404')), []);
});

test('a token in the address logs in and leaves the address', async () => {
  const page = await context.newPage();
  await page.goto(`${ORIGIN}/demo#token=${tokenFor('carol')}&user=carol&topics=news`);
  await page.waitForSelector('[data-state=online]');
  assert.equal(page.url(), `${ORIGIN}/demo`);
  assert.deepEqual([desk.sessions[0].user, desk.hellos[0].topics], ['carol', ['news']]);
});

test('what a publisher writes is text, never markup', async () => {
  const person = await alice();
  const evil = '<img src=x onerror=alert(1)>';
  desk.publish('user:alice', { type: evil, id: evil, data: JSON.stringify({ evil }) });
  await person.received(1);
  await person.page.click('#log summary');
  await person.page.waitForSelector('.payload pre');
  assert.equal(await person.page.locator('#log img').count(), 0);
  assert.deepEqual(person.faults, []);
});

test('ten thousand messages keep the page small and its counts whole', async () => {
  const person = await alice();
  const begun = performance.now();
  for (let i = 0; i < 100; i++) for (let j = 0; j < 100; j++) desk.publish('user:alice', { data: `{"i":${i},"j":${j}}` });
  assert.deepEqual(seqs(await person.received(10_000)), upTo(10_000));
  await person.acknowledged('user:alice', 10_000);
  const took = performance.now() - begun;
  assert.ok((await person.page.locator('#log > li').count()) <= 300);
  assert.match(await person.page.innerText('#shown'), /the latest \d+ of 10,000/);
  console.log(`10,000 messages shown and acknowledged after ${Math.round(took)} ms`);
});

for (const width of [320, 390, 800, 1100]) {
  test(`nothing is cut off at a width of ${width}`, async () => {
    await context.close();
    await begin({ viewport: { width, height: 800 } });
    const person = await alice({ topics: ['a-topic/with-a-name-that-is-rather-long-for-a-phone'] });
    desk.publish('topic:a-topic/with-a-name-that-is-rather-long-for-a-phone', { type: 'a.type.that.does.not.fit.at.all.on.a.phone' });
    await person.received(1);
    await person.page.click('#log summary');
    await person.page.waitForSelector('.payload pre');
    assert.ok(await person.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'the page scrolls sideways');
  });
}

for (const [name, options] of Object.entries({
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  'phone-dark': { colorScheme: 'dark', viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
})) {
  test(`screenshots: ${name}`, async () => {
    await context.close();
    await begin(options);
    const person = await Person.open(context, ORIGIN);
    await person.screenshot(`${name}-1-login`);
    await person.logIn('Codertocat', { topics: ['octo-org/octo-repo', 'Codertocat/Hello-World'] });
    await person.screenshot(`${name}-2-empty`);
    const sent = await story(person);
    await person.received(sent);
    await person.acknowledged('user:Codertocat', 14);
    await person.screenshot(`${name}-3-board`);
    await person.page.locator('#log summary').nth(1).click();
    await person.page.waitForFunction(() => /[0-9a-f]{64}/.test(document.querySelector('.payload')?.textContent));
    await person.screenshot(`${name}-4-payload`);
    await person.goOffline();
    await person.screenshot(`${name}-5-offline`);
    assert.deepEqual(person.faults, []);
  });
}

// story is a bit of everything: live messages of three addresses, a time away, a gap. It tells how many messages it sent.
async function story(person) {
  const all = messages();
  const send = (to, from, until, age) => {
    const chosen = all.filter((message) => message.to === to).slice(from, until);
    for (const { type, id, payload } of chosen) desk.publish(to, { type, id, data: payload, at: Date.now() - age() });
    return chosen.length;
  };
  const quick = () => Math.floor(2 + 30 * Math.random() ** 4);
  let sent = 0;
  for (let i = 0; i < 6; i++) {
    sent += send('user:Codertocat', 3 + i, 4 + i, quick) + send('topic:Codertocat/Hello-World', 10 + i, 11 + i, quick);
    await person.received(sent);
  }
  sent += send('topic:octo-org/octo-repo', 0, 3, quick);
  await person.received(sent);
  await person.goOffline();
  sent += send('user:Codertocat', 20, 24, () => 95_000);
  desk.omit('user:Codertocat', 'expired');
  sent += send('topic:octo-org/octo-repo', 4, 6, () => 45_000);
  await person.goOnline();
  await person.received(sent);
  return sent + send('user:Codertocat', 30, 33, quick);
}
