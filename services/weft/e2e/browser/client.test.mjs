// weft.js alone, against a socket that a test holds in its hand and a clock that it turns.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';

import { Refused, Weft, decode } from '../../../push/demo/page/weft.js';

class Socket {
  static all = [];
  sent = [];
  readyState = 0;

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    Socket.all.push(this);
  }

  send(text) {
    this.sent.push(...text.split('\n').map((line) => JSON.parse(line)));
  }

  close(code) {
    this.readyState = 3;
    this.closed = code ?? 1000;
  }

  open() {
    this.readyState = 1;
    this.onopen();
  }

  say(...objects) {
    this.onmessage({ data: objects.map((o) => (typeof o === 'string' ? o : JSON.stringify(o))).join('\n') });
  }

  end(code, reason = '') {
    this.readyState = 3;
    this.onclose({ code, reason });
  }

  taken(t) {
    return this.sent.filter((object) => object.t === t);
  }
}

const HEARTBEAT = 20_000;
const settle = async () => {
  for (let i = 0; i < 5; i++) await Promise.resolve();
};
const last = () => Socket.all.at(-1);
const msg = (seq, more = {}) => `${JSON.stringify({ t: 'msg', seq, id: `m${seq}`, at: 1, ...more }).slice(0, -1)},"data":{"n":${seq}}}`;

// start connects a client whose storage is shared between those of one test, and writes down all it tells.
async function start(storage = new Map(), options = {}) {
  const told = [];
  const tell = (what) => (fact) => told.push({ what, ...fact });
  const names = ['status', 'welcome', 'subscribed', 'message', 'gap', 'repeat', 'acked', 'hole', 'problem'];
  const client = new Weft(
    {
      url: 'ws://host/v1/ws',
      user: 'alice',
      device: 'tab',
      token: () => 'secret?',
      storage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) },
      Socket,
      random: () => 0.5,
      ...options,
    },
    Object.fromEntries(names.map((name) => [name, tell(name)])),
  );
  client.connect();
  await settle();
  return { client, told, storage, seqs: () => told.filter(({ what }) => what === 'message').map(({ seq }) => seq) };
}

function welcome({ head = 0, next = 1, epoch = 'e1', boxes = {} } = {}) {
  const mailboxes = { 'user:alice': { head, next }, ...boxes };
  last().open();
  last().say({ t: 'welcome', session: 's', user: 'alice', device: 'tab', node: 'n', epoch, heartbeat: HEARTBEAT, mailboxes });
}

async function turn(ms) {
  mock.timers.tick(ms);
  await settle();
}

beforeEach(() => mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 }));
afterEach(() => {
  mock.timers.reset();
  Socket.all = [];
});

test('the token travels as a subprotocol, and hello names device and topics', async () => {
  await start(new Map(), { topics: ['news'] });
  assert.deepEqual(last().protocols, ['weft.v1.json', `weft.bearer.${Buffer.from('secret?').toString('base64url')}`]);
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', device: 'tab', epoch: '', cursors: {}, topics: ['news'], client: 'weft-demo/1' }]);
});

test('a payload is cut out exactly as it was published', () => {
  const data = '{"a" : 1e2,"t":"x,\\"data\\":","u":"é"}';
  assert.equal(decode(`{"t":"msg","seq":1,"id":",\\"data\\":","at":1,"data":${data}}`).text, data);
  const { bytes, data64 } = decode('{"t":"msg","seq":1,"id":"a","at":1,"data64":"AP8K"}');
  assert.deepEqual([[...bytes], data64], [[0, 255, 10], undefined]);
});

test('messages are acknowledged together, per address, 50 ms later', async () => {
  const { seqs } = await start();
  welcome({ boxes: { all: { head: 4, next: 5 } } });
  last().say(msg(1), msg(2), msg(5, { ch: 'all' }));
  assert.deepEqual(seqs(), [1, 2, 5]);
  await turn(49);
  assert.deepEqual(last().taken('ack'), []);
  await turn(1);
  assert.deepEqual(last().taken('ack'), [{ t: 'ack', seq: 2 }, { t: 'ack', seq: 5, ch: 'all' }]);
  await turn(1_000);
  assert.equal(last().taken('ack').length, 2, 'nothing new, nothing said');
});

test('what comes twice is dropped, and only what this session was sent is acknowledged', async () => {
  const { storage } = await start();
  welcome();
  last().say(msg(1), msg(2), msg(3));
  await turn(50);
  const { told, seqs } = await start(storage);
  welcome({ head: 3, next: 1 }); // the server knows of nothing
  assert.deepEqual(last().sent[0].cursors, { 'user:alice': 3 });
  last().say(msg(1), msg(2));
  await turn(50);
  assert.deepEqual(last().taken('ack'), [{ t: 'ack', seq: 2 }], '3 was not sent in this session');
  last().say(msg(3), msg(4));
  assert.deepEqual(seqs(), [4]);
  assert.equal(told.filter(({ what }) => what === 'repeat').length, 3);
});

test('what an operator sends again is shown again', async () => {
  const { seqs } = await start();
  welcome();
  last().say(msg(1), msg(2), msg(1, { re: true }), msg(3));
  assert.deepEqual(seqs(), [1, 2, 1, 3]);
});

test('a missing number makes the client ask again for what follows the last one', async () => {
  const { told, seqs } = await start();
  welcome();
  const broken = last();
  last().say(msg(1), msg(3), msg(4));
  assert.deepEqual(seqs(), [1], 'nothing after the hole is taken');
  assert.deepEqual(told.find(({ what }) => what === 'hole'), { what: 'hole', ch: 'user:alice', expected: 2, got: 3 });
  assert.notEqual(broken.closed, undefined);
  await turn(1_000);
  assert.notEqual(last(), broken);
  last().open();
  assert.deepEqual(last().sent[0].cursors, { 'user:alice': 1 });
});

test('a gap is a step like a message, and is acknowledged like one', async () => {
  const { told, seqs } = await start();
  welcome({ head: 5 });
  last().say(msg(1), { t: 'gap', from: 2, to: 4, why: 'expired' }, msg(5));
  await turn(50);
  assert.deepEqual(seqs(), [1, 5]);
  assert.deepEqual(told.filter(({ what }) => what === 'gap'), [{ what: 'gap', ch: 'user:alice', from: 2, to: 4, why: 'expired' }]);
  assert.deepEqual(last().taken('ack'), [{ t: 'ack', seq: 5 }]);
});

test('a gap that leaves a number out is a hole', async () => {
  const { told } = await start();
  welcome({ head: 5 });
  last().say(msg(1), { t: 'gap', from: 3, to: 4, why: 'expired' });
  assert.deepEqual(told.filter(({ what }) => what === 'gap' || what === 'hole'), [{ what: 'hole', ch: 'user:alice', expected: 2, got: 3 }]);
});

test('up to the head of the welcome a message is caught up, above it live', async () => {
  const { told } = await start();
  welcome({ head: 2 });
  last().say(msg(1), msg(2), msg(3));
  assert.deepEqual(told.filter(({ what }) => what === 'message').map(({ caughtUp }) => caughtUp), [true, true, false]);
  assert.equal(told.find(({ what }) => what === 'welcome').behind, 2);
});

test('another epoch voids the cursors', async () => {
  const { storage } = await start();
  welcome();
  last().say(msg(1), msg(2));
  await turn(50);
  const { told, seqs } = await start(storage);
  welcome({ epoch: 'e2', head: 4, next: 2 });
  last().say({ t: 'gap', from: 1, to: 1, why: 'epoch' }, msg(2), msg(3));
  assert.deepEqual(seqs(), [2, 3], 'the 2 of this epoch is not the one that was handled');
  assert.equal(told.find(({ what }) => what === 'gap').why, 'epoch');
});

test('the heartbeat is answered, and a path that fell silent is left', async () => {
  const { told } = await start();
  welcome();
  const first = last();
  first.say({ t: 'ping' });
  assert.equal(first.taken('pong').length, 1);
  await turn(1.25 * HEARTBEAT + 1_000);
  assert.equal(first.taken('ping').length, 1, 'we ask once before we leave');
  await turn(HEARTBEAT);
  assert.notEqual(first.closed, undefined);
  assert.match(told.findLast(({ what }) => what === 'status').words, /heard/);
  await turn(1_000);
  assert.notEqual(last(), first);
});

test('waits double up to half a minute, each a random part', async () => {
  const { told } = await start();
  for (let i = 0; i < 9; i++) {
    last().end(1006);
    await turn(15_000);
  }
  const waits = told.filter(({ state }) => state === 'waiting').map(({ retryAt }, i) => retryAt - 1_000_000 - i * 15_000);
  assert.deepEqual(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
});

for (const [code, fatal] of Object.entries({ 1000: false, 1006: false, 1012: false, 4401: false, 4408: false, 4429: false, 4503: false, 4400: true, 4403: true, 4409: true, 4413: true })) {
  test(`close code ${code} is ${fatal ? 'final' : 'followed by another attempt'}`, async () => {
    const { client, told } = await start();
    welcome();
    last().end(Number(code), 'why');
    const status = told.findLast(({ what }) => what === 'status');
    assert.equal(status.state, fatal ? 'stopped' : 'waiting');
    assert.match(status.words, /\(why\)$/);
    await turn(60_000);
    assert.equal(Socket.all.length > 1, !fatal);
    if (!fatal) return;
    client.connect(); // a person may try all the same
    await settle();
    assert.equal(Socket.all.length, 2);
  });
}

test('after 4401 a fresh token is asked for; without one the client stops', async () => {
  const asked = [];
  const token = (refusal) => {
    asked.push(refusal);
    if (asked.length === 3) throw new Refused('No more.');
    return 'token';
  };
  const { told } = await start(new Map(), { token });
  welcome();
  last().end(4401);
  await turn(1_000);
  last().end(1006); // never opened
  await turn(1_000);
  assert.deepEqual(asked, ['', 'expired', 'unopened']);
  assert.deepEqual(told.at(-1), { what: 'status', state: 'stopped', words: 'No more.' });
});

test('a draining node is left inside its time, with everything acknowledged', async () => {
  await start();
  welcome();
  const first = last();
  first.say(msg(1), { t: 'drain', within: 40 });
  await turn(20);
  assert.deepEqual(first.taken('ack'), [{ t: 'ack', seq: 1 }]);
  assert.notEqual(last(), first);
});

test('going offline acknowledges, stays away, and comes back where it was', async () => {
  const { client } = await start();
  welcome();
  const first = last();
  first.say(msg(1), msg(2));
  client.disconnect();
  assert.deepEqual(first.taken('ack'), [{ t: 'ack', seq: 2 }]);
  await turn(120_000);
  assert.equal(Socket.all.length, 1);
  client.connect();
  await settle();
  last().open();
  assert.deepEqual(last().sent[0].cursors, { 'user:alice': 2 });
});

test('topics come and go on a live session', async () => {
  const { client, seqs } = await start();
  welcome();
  client.subscribe(['news']);
  assert.deepEqual(last().taken('sub'), [{ t: 'sub', topics: ['news'] }]);
  last().say({ t: 'sub', mailboxes: { 'user:alice': { head: 0, next: 1 }, 'topic:news': { head: 7, next: 8 } } });
  last().say(msg(8, { ch: 'topic:news' }), msg(1));
  client.unsubscribe(['news']);
  assert.deepEqual(last().taken('unsub'), [{ t: 'unsub', topics: ['news'] }]);
  assert.deepEqual(last().taken('ack'), [{ t: 'ack', seq: 1 }, { t: 'ack', seq: 8, ch: 'topic:news' }]);
  last().say(msg(9, { ch: 'topic:news' }));
  assert.deepEqual(seqs(), [8, 1], 'what was still under way is left alone');
});

test('a topic that is asked for before the welcome is not forgotten', async () => {
  const { client } = await start();
  last().open();
  client.subscribe(['late']);
  last().say({ t: 'welcome', session: 's', user: 'alice', device: 'tab', node: 'n', epoch: 'e', heartbeat: HEARTBEAT, mailboxes: {} });
  assert.deepEqual(last().taken('sub'), [{ t: 'sub', topics: ['late'] }]);
});
