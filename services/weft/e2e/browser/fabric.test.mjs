// The demo page in Chromium, against a running fabric: WEFT_MANIFEST names the file that `weft dev` or `weft up` wrote.
// Messages go in through plain NATS publishes. Users and ids are new in each run, so the same fabric can be tested again.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, afterEach, before, test } from 'node:test';

import { launch } from './chromium.mjs';
import { Publisher } from './nats.mjs';
import { messages } from './payloads.mjs';
import { Person } from './person.mjs';

if (!process.env.WEFT_MANIFEST) throw new Error('WEFT_MANIFEST must name the manifest of a running fabric');
const { nats, push } = JSON.parse(readFileSync(process.env.WEFT_MANIFEST, 'utf8'));
const run = randomBytes(4).toString('hex');

// Nothing fades or pulses: fifteen pages that do keep two cores busy, and a screenshot would catch them half-way.
const CALM = { viewport: { width: 1360, height: 860 }, reducedMotion: 'reduce' };

let browser, publisher;
const contexts = [];

before(async () => {
  browser = await launch();
  publisher = await Publisher.dial(nats);
});
afterEach(() => Promise.all(contexts.splice(0).map((context) => context.close())));
after(async () => {
  publisher?.close();
  await browser?.close();
});

// visit is a new browser at one of the fabric's push nodes, each in its turn.
async function visit(turn, options = {}) {
  const context = await browser.newContext({ ...CALM, ...options });
  contexts.push(context);
  return Person.open(context, push[turn % push.length]);
}

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);
const seqs = (list) => list.map(({ seq }) => seq);

// send publishes n numbered messages to a user, each after the PubAck of the one before: their order is promised.
async function send(user, from, n) {
  for (let i = from; i < from + n; i++) await publisher.publish(`user:${user}`, JSON.stringify({ i }), { 'Weft-Id': `n-${i}`, 'Weft-Type': 'count' });
}

for (const turn of push.keys()) {
  test(`away and back at node ${turn + 1} of ${push.length}: everything in order, nothing twice`, async () => {
    const user = `alice-${turn}-${run}`;
    const person = await visit(turn);
    const witness = await visit(turn + 1);
    await person.logIn(user);
    await witness.logIn(user);
    await send(user, 1, 10);
    assert.deepEqual(seqs(await person.received(10)), upTo(10));
    await person.acknowledged(`user:${user}`, 10);

    await person.goOffline();
    await send(user, 11, 200);
    await witness.received(210); // so that they are all in the archive, and none comes live
    await person.goOnline();
    const all = await person.received(210);
    assert.deepEqual(seqs(all), upTo(210));
    assert.deepEqual(all.map(({ hash }) => hash), upTo(210).map((i) => sha256(JSON.stringify({ i }))));
    await person.acknowledged(`user:${user}`, 210);
    assert.equal((await person.counts()).caughtUp, 200);

    await person.goOffline();
    await person.goOnline();
    await send(user, 211, 1);
    assert.deepEqual(seqs(await person.received(211)), upTo(211), 'the second time only the new one comes');
    await person.acknowledged(`user:${user}`, 211);

    await person.reload();
    await send(user, 212, 1);
    assert.deepEqual(seqs(await person.received(1)), [212], 'a page that is loaded again goes on where it was');
    const { repeats, holes } = await person.counts();
    assert.deepEqual([repeats, holes, person.faults], [0, 0, []]);
  });
}

test('every device of a user gets every message, at whichever node it is', async () => {
  const user = `bob-${run}`;
  const people = await Promise.all([0, 1, 2].map((turn) => visit(turn)));
  for (const person of people) await person.logIn(user);
  await send(user, 1, 50);
  for (const person of people) assert.deepEqual(seqs(await person.received(50)), upTo(50));
});

test('the same id again delivers nothing and takes no number', async () => {
  const user = `carol-${run}`;
  const person = await visit(1);
  await person.logIn(user);
  for (const id of ['a', 'b', 'a', 'b', 'c']) await publisher.publish(`user:${user}`, JSON.stringify({ id }), { 'Weft-Id': id });
  assert.deepEqual((await person.received(3)).map(({ id, seq }) => [id, seq]), [['a', 1], ['b', 2], ['c', 3]]);
});

test('the payloads of the demo arrive byte-identical, in order, once, at everybody they are for', async () => {
  const published = messages().map((message) => ({ ...message, id: `${message.id}.${run}`, hash: sha256(message.payload) }));
  const addresses = [...new Set(published.map(({ to }) => to))];
  const users = addresses.filter((to) => to.startsWith('user:')).map((to) => to.slice('user:'.length));
  const topics = addresses.filter((to) => to.startsWith('topic:')).map((to) => to.slice('topic:'.length));
  const expected = (user) => published.filter(({ to }) => !to.startsWith('user:') || to === `user:${user}`);

  const people = await Promise.all(users.map((_, turn) => visit(turn)));
  // One after the other: the first device of a user begins at the beginning of the mailbox, and may have to catch up.
  for (const [i, person] of people.entries()) {
    await person.logIn(users[i], { topics });
    await person.entered(topics.length + 2); // its own mailbox and `all`, too
  }
  await publishInOrder(published);
  for (const [i, person] of people.entries()) {
    const wanted = expected(users[i]);
    const got = await person.received(wanted.length, { idEnds: `.${run}`, within: 60_000 });
    compare(users[i], wanted, got);
    assert.deepEqual(person.faults, []);
  }
  const distinct = new Set(published.map(({ id }) => id).filter((id) => !id.includes('-pretty')));
  console.log(`${distinct.size} payloads in ${published.length} publishes to ${addresses.length} addresses, checked at ${people.length} pages of ${push.length} node(s)`);
});

// publishInOrder publishes to all addresses at once, and to each address one after the other.
function publishInOrder(published) {
  const addresses = [...new Set(published.map(({ to }) => to))];
  const publishTo = async (address) => {
    const list = published.filter(({ to }) => to === address);
    for (const { to, id, type, payload } of list) await publisher.publish(to, payload, { 'Weft-Id': id, 'Weft-Type': type });
  };
  return Promise.all(addresses.map(publishTo));
}

// compare holds what a page received against what was published: per address the same ids, types and hashes in the same
// order, and sequences that only rise by one.
function compare(user, wanted, got) {
  const facts = ({ id, type, hash }) => `${id} ${type} ${hash}`;
  for (const to of new Set(wanted.map((message) => message.to))) {
    const here = got.filter(({ ch }) => ch === to);
    assert.deepEqual(here.map(facts), wanted.filter((message) => message.to === to).map(facts), `${to} at ${user}`);
    assert.deepEqual(seqs(here), here.map((_, i) => here[0].seq + i), `${to} at ${user}: sequences`);
  }
  assert.equal(got.length, wanted.length, `${user}: nothing but what was published`);
}

for (const [name, options] of Object.entries({
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
})) {
  test(`screenshot of the fabric: ${name}`, async () => {
    const user = `Codertocat-${name}-${run}`;
    const person = await visit(0, options);
    await person.logIn(user);
    const sample = messages().filter(({ to }) => to === 'user:Codertocat');
    const publish = async (list) => {
      for (const { id, type, payload } of list) await publisher.publish(`user:${user}`, payload, { 'Weft-Id': id, 'Weft-Type': type });
    };
    await publish(sample.slice(0, 12));
    await person.received(12);
    await person.goOffline();
    await publish(sample.slice(12, 16));
    await person.goOnline();
    await person.received(16);
    await publish(sample.slice(16, 19));
    await person.received(19);
    await person.acknowledged(`user:${user}`, 19);
    await person.screenshot(`fabric-${name}`);
  });
}
