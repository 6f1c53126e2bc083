// Order, acknowledgement, retries.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { FakeServer, settled } from '../src/testing.js';
import type { Message } from '../src/types.js';
import { client, gate, MemoryStore, stubPage, turn } from './page.js';

let server: FakeServer;
let local: MemoryStore;

beforeEach(() => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  local = new MemoryStore();
  stubPage(local);
  server = new FakeServer();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const publish = (count: number, to?: string) => {
  for (let i = 0; i < count; i++) server.publish('t', { n: server.head(to) + 1 }, to ? { to } : {});
};

test('messages come once, in order, with all that is known of them', async () => {
  const { seen } = await client(server);
  server.publish('order.paid', { total: 5 }, { id: 'o-1', traceparent: '00-1', again: true });
  server.publish('', [1], { to: 'all' });
  await settled();
  expect(seen[0]).toMatchObject({
    ...{ to: 'user:alice', seq: 1, id: 'o-1', type: 'order.paid', at: Date.now(), contentType: 'application/json' },
    ...{ data: { total: 5 }, text: '{"total":5}', bytes: undefined, again: true, live: false, traceparent: '00-1' },
  });
  expect(seen[1]).toMatchObject({ to: 'all', seq: 1, type: '', data: [1], again: false, traceparent: '' });
});

test('a payload is read as it was published', async () => {
  const { seen } = await client(server);
  const line = (rest: string) => `{"t":"msg","seq":${server.session.lanes.get('user:alice')!.next++},"id":",\\"data\\":","at":1${rest}}`;
  const data = '{"a" : 1e2,"t":"x,\\"data\\":","u":"é"}';
  server.session.say(
    line(`,"data":${data}`),
    line(',"content_type":"text/plain","data64":"AP8K"'),
    line(`,"data64":"${btoa('{\n"a": 1}')}"`),
    line(`,"content_type":"application/x+json; v=1","data64":"${btoa('[1,\n2]')}"`),
    line(`,"content_type":"application/json-seq","data64":"${btoa('1 2')}"`),
    line(',"data":null'),
  );
  await settled();
  expect(seen.map((m) => m.text)).toEqual([data, undefined, undefined, undefined, undefined, 'null']);
  expect(seen.map((m) => m.data)).toEqual([JSON.parse(data), undefined, { a: 1 }, [1, 2], undefined, null]);
  expect([...seen[1]!.bytes!]).toEqual([0, 255, 10]);
  expect(new TextDecoder().decode(seen[2]!.bytes)).toBe('{\n"a": 1}');
});

test('a message goes to the handlers of its type and of all types, until they are taken away', async () => {
  const { weft, seen } = await client(server);
  const paid: number[] = [];
  const off = weft.on('order.paid', ({ seq }) => paid.push(seq));
  server.publish('order.paid', 1);
  server.publish('order.sent', 1);
  await settled();
  off();
  server.publish('order.paid', 1);
  await settled();
  expect(paid).toEqual([1]);
  expect(seen.map(({ seq }) => seq)).toEqual([1, 2, 3]);
});

test('the acknowledged prefix has no hole, whatever the order in which handlers settle', async () => {
  const gates = [1, 2, 3, 4].map(gate);
  await client(server, {}, ({ seq }) => gates[seq - 1]!.promise);
  publish(4);
  await settled();
  gates[2]!.open();
  gates[1]!.open();
  await turn(50);
  expect(server.acks).toEqual([]);
  expect(local.cursors()!['user:alice']).toBe(0);
  gates[0]!.open();
  await settled();
  expect(local.cursors()!['user:alice'], 'stored at once').toBe(3);
  expect(server.acks, 'acknowledged later').toEqual([]);
  await turn(50);
  expect(server.acks).toEqual([{ device: 'laptop', to: 'user:alice', seq: 3 }]);
  gates[3]!.open();
  await turn(50);
  expect(server.cursor()).toBe(4);
});

test('one mailbox does not wait for another', async () => {
  await client(server, { topics: ['news'] }, ({ to }) => (to === 'all' ? new Promise(() => {}) : undefined));
  publish(2, 'all');
  publish(3);
  publish(4, 'topic:news');
  await turn(50);
  expect(server.acks.map(({ to, seq }) => `${to}/${seq}`).sort()).toEqual(['topic:news/4', 'user:alice/3']);
});

test('a message is handled when all its handlers have settled', async () => {
  const slow = gate();
  const { weft } = await client(server);
  weft.on('t', () => slow.promise);
  publish(1);
  await turn(1_000);
  expect(server.cursor()).toBe(0);
  slow.open();
  await turn(50);
  expect(server.cursor()).toBe(1);
});

test('a message without a handler, and a gap, count as handled', async () => {
  const { weft, told } = await client(server);
  let off = () => {};
  off = weft.on('*', () => off());
  publish(1);
  server.gap(3, 'superseded');
  await turn(50);
  expect(server.cursor()).toBe(4);
  expect(told.at(-1)).toEqual({ what: 'gap', to: 'user:alice', first: 2, last: 4, why: 'superseded' });
});

test('acknowledgements of 50 ms travel together', async () => {
  await client(server);
  publish(3);
  await turn(49);
  publish(1, 'all');
  expect(server.session.heard.map(({ t }) => t)).toEqual(['hello']);
  await turn(1);
  expect(server.session.heard.slice(1)).toEqual([
    { t: 'ack', seq: 3, ch: 'user:alice' },
    { t: 'ack', seq: 1, ch: 'all' },
  ]);
  await turn(1_000);
  expect(server.acks).toHaveLength(2);
});

test('a failing handler is called again after 1, 2, 4, 8 and 16 s; then the message is passed over', async () => {
  const calls: number[] = [];
  const start = Date.now();
  const { told } = await client(server, {}, ({ seq }) => {
    if (seq !== 1) return;
    calls.push((Date.now() - start) / 1000);
    if (calls.length % 2) throw new Error('sync');
    return Promise.reject(new Error('async'));
  });
  publish(2);
  await turn(30_999);
  expect(calls).toEqual([0, 1, 3, 7, 15]);
  expect(server.cursor()).toBe(0);
  await turn(1);
  expect(calls).toEqual([0, 1, 3, 7, 15, 31]);
  expect(told.at(-1)).toMatchObject({ what: 'failed', message: { seq: 1 }, error: new Error('async') });
  await turn(50);
  expect(server.cursor()).toBe(2);
});

test('only the handler that failed is called again, and not when it was taken away', async () => {
  const calls: string[] = [];
  const { weft } = await client(server, {}, () => calls.push('fine'));
  let fails = 2;
  weft.on('t', () => {
    calls.push('flaky');
    if (fails--) throw new Error('not yet');
  });
  const off = weft.on('t', () => {
    calls.push('gone');
    throw new Error('never');
  });
  publish(1);
  await turn(999);
  off();
  await turn(2_001);
  expect(calls).toEqual(['flaky', 'gone', 'fine', 'flaky', 'flaky']);
  await turn(50);
  expect(server.cursor()).toBe(1);
});

test('onError stop hands over one at a time and holds what failed, until its ack()', async () => {
  let broken = true;
  const { seqs, told } = await client(server, { onError: 'stop' }, ({ seq }) => {
    if (seq === 2 && broken) throw new Error('no');
  });
  publish(4);
  publish(1, 'all');
  await turn(60_000);
  expect(seqs()).toEqual(['1', 'all/1', '2', '2', '2', '2', '2', '2']);
  expect(server.cursor()).toBe(1);
  const failed = told.find(({ what }) => what === 'failed')!.message as Message;
  broken = false;
  failed.ack();
  await turn(50);
  expect(seqs().slice(8)).toEqual(['3', '4']);
  expect(server.cursor()).toBe(4);
});

test('onError stop goes on when a later try succeeds', async () => {
  let fails = 3;
  const { seqs } = await client(server, { onError: 'stop' }, async ({ seq }) => {
    if (seq === 1 && fails--) throw new Error('not yet');
  });
  publish(3);
  await turn(6_999);
  expect(seqs()).toEqual(['1', '1', '1']);
  await turn(100);
  expect(seqs()).toEqual(['1', '1', '1', '1', '2', '3']);
});

test('ack manual acknowledges what was acked, and still without a hole', async () => {
  const { seen } = await client(server, { ack: 'manual' });
  publish(3);
  await turn(50);
  seen[1]!.ack();
  await turn(50);
  expect(server.acks).toEqual([]);
  seen[0]!.ack();
  seen[0]!.ack();
  await turn(50);
  expect(server.cursor()).toBe(2);
});

test('ack manual passes over what fails, and calls no handler again for what was acked', async () => {
  let calls = 0;
  const { told } = await client(server, { ack: 'manual' }, (m) => {
    calls++;
    if (m.seq === 1) m.ack();
    throw new Error('no');
  });
  publish(2);
  await turn(40_000);
  expect(calls).toBe(1 + 6);
  expect(told.filter(({ what }) => what === 'failed')).toHaveLength(1);
  expect(server.cursor()).toBe(2);
});

test('a live message is handed over, not acknowledged and not tried again', async () => {
  const { seen, told } = await client(server, {}, (m) => {
    m.ack();
    throw new Error('no');
  });
  server.publish('cursor', { x: 1 }, { live: true });
  await turn(1_000);
  expect(seen.map(({ seq, live, data }) => ({ seq, live, data }))).toEqual([{ seq: 0, live: true, data: { x: 1 } }]);
  expect(server.acks).toEqual([]);
  expect(told.filter(({ what }) => what === 'failed')).toEqual([]);
});

test('a live message that fails is not tried again', async () => {
  const { seen, told } = await client(server, {}, () => Promise.reject(new Error('no')));
  server.publish('cursor', 1, { live: true });
  await turn(60_000);
  expect(seen).toHaveLength(1);
  expect(told.at(-1)).toMatchObject({ what: 'failed', message: { live: true } });
});

test('a gap that covers what was handed over tells only of the rest', async () => {
  const { told, seqs } = await client(server, {}, ({ seq }) => (seq > 1 ? new Promise(() => {}) : undefined));
  publish(3);
  await settled();
  server.session.say({ t: 'gap', from: 2, to: 5, why: 'expired' });
  await settled();
  expect(seqs()).toEqual(['1', '2', '3']);
  expect(told.at(-1)).toEqual({ what: 'gap', to: 'user:alice', first: 4, last: 5, why: 'expired' });
});

test('what nobody listens to is shown on the console, and a listener that throws stops nothing', async () => {
  const shown = vi.spyOn(console, 'error').mockImplementation(() => {});
  const { weft, told, seqs } = await client(server, {}, () => {});
  const broken = new Error('listener');
  weft.listen('gap', () => {
    throw broken;
  });
  server.gap(1);
  publish(1);
  await settled();
  expect(shown.mock.calls).toEqual([[broken]]);
  expect(seqs()).toEqual(['2']);
  expect(told.filter(({ what }) => what === 'gap')).toHaveLength(1);
  shown.mockClear();
  const { connect } = await import('../src/index.js');
  const lonely = connect({ url: 'ws://fake', token: 'x', device: 'phone', WebSocket: server.WebSocket, shared: false });
  lonely.on('*', () => {
    throw new Error('unheard');
  });
  await turn(40_000);
  expect(shown.mock.calls[0]!.slice(0, 2)).toEqual(['weft', 'failed']);
  shown.mockRestore();
});

test('thousands that settle at once are handed over and acknowledged', async () => {
  server = new FakeServer({ window: 20_000 });
  const first = gate();
  const { seen } = await client(server, { onError: 'stop' }, ({ seq }) => (seq === 1 ? first.promise : undefined));
  publish(10_000);
  await settled();
  first.open();
  for (let i = 0; i < 1_000 && seen.length < 10_000; i++) await settled();
  expect(seen.length).toBe(10_000);
  await turn(50);
  expect(server.cursor()).toBe(10_000);
});

test('handlers that end the client end it at once', async () => {
  const { weft, seqs } = await client(server, {}, ({ seq }) => void (seq === 2 && weft.close()));
  publish(5);
  await settled();
  expect(seqs()).toEqual(['1', '2']);
  expect(server.cursor(), 'the one that ended it was handled').toBe(2);
});
