// Where a device stands: reloads, epochs, stores that fail, other users.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { FakeServer, settled } from '../src/testing.js';
import { client, gate, jwt, MemoryStore, stubPage, turn } from './page.js';

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

/** Ends a page as a crash does: nothing of it is heard again. */
const crash = () => {
  for (const { onmessage } of server.sessions) void onmessage;
  for (const session of server.sessions) session.onmessage = session.onclose = session.onopen = null;
  server.kill();
};

test('a reload in the middle goes on where the page was', async () => {
  const before = await client(server, {}, ({ seq }) => (seq > 2 ? new Promise(() => {}) : undefined));
  publish(4);
  await settled();
  crash(); // 1 and 2 were handled and are not acknowledged
  expect(server.cursor()).toBe(0);
  publish(1);
  const after = await client(server);
  expect(server.hellos.at(-1)).toMatchObject({ epoch: 'e1', cursors: { 'user:alice': 2, all: 0 } });
  await turn(50);
  expect(before.seqs()).toEqual(['1', '2', '3', '4']);
  expect(after.seqs()).toEqual(['3', '4', '5']);
  expect(server.cursor()).toBe(5);
});

test('after a reconnect what is sent again is dropped, and acknowledged on the new connection', async () => {
  const slow = gate();
  const { seqs } = await client(server, {}, ({ seq }) => (seq === 2 ? slow.promise : undefined));
  publish(3);
  await turn(50);
  expect(server.cursor()).toBe(1);
  server.kill();
  await turn(300);
  expect(server.hellos.at(-1)!.cursors['user:alice']).toBe(1);
  publish(1);
  await settled();
  expect(seqs()).toEqual(['1', '2', '3', '4']);
  slow.open();
  await turn(50);
  expect(server.cursor()).toBe(4);
});

test('what settles between two connections is known to the next one', async () => {
  const slow = gate();
  const { seqs } = await client(server, {}, ({ seq }) => (seq === 1 ? slow.promise : undefined));
  publish(3);
  await turn(50);
  server.down = true;
  server.kill();
  await settled();
  slow.open();
  await settled();
  server.down = false;
  await turn(2_000);
  expect(server.hellos.at(-1)!.cursors['user:alice']).toBe(3);
  expect(server.cursor()).toBe(3);
  expect(seqs()).toEqual(['1', '2', '3']);
});

test('nothing above what a session was sent is acknowledged on it', async () => {
  const slow = gate();
  const { weft, seqs } = await client(server, {}, ({ seq }) => (seq === 1 ? slow.promise : undefined));
  publish(2);
  await settled();
  server.window = 1; // so that the next session is not sent 2 before 1 is acknowledged
  server.kill();
  await turn(300);
  slow.open();
  await turn(50);
  expect(server.acks.map(({ seq }) => seq)).toEqual([1]);
  await turn(50);
  expect(server.acks.map(({ seq }) => seq)).toEqual([1, 2]);
  expect(weft.status.state).toBe('open');
  expect(seqs()).toEqual(['1', '2']);
});

test('another epoch voids the cursors and says so', async () => {
  const { seqs, told } = await client(server);
  publish(5);
  await turn(50);
  server.restore('e2');
  publish(3);
  await turn(300);
  expect(server.hellos.at(-1)).toMatchObject({ epoch: 'e1', cursors: { 'user:alice': 5 } });
  expect(seqs()).toEqual(['1', '2', '3', '4', '5', '1', '2', '3']);
  await turn(50);
  expect(server.cursor()).toBe(3);
  expect(local.cursors()).toMatchObject({ 'user:alice': 3 });
  expect(told.filter(({ what }) => what === 'gap')).toEqual([]);
});

test('the gap of another epoch is told, and counts for nothing', async () => {
  const { told, seqs } = await client(server);
  publish(5);
  await turn(50);
  server.restore('e2');
  publish(4);
  await client(server, { device: 'other', store: new MemoryStore() }); // handles 1 to 4
  await turn(1_000);
  publish(1);
  await turn(50);
  expect(told.filter(({ what }) => what === 'gap')).toEqual([{ what: 'gap', to: 'user:alice', first: 1, last: 4, why: 'epoch' }]);
  expect(seqs().slice(5)).toEqual(['5']);
});

test('a handler that settles after the epoch changed acknowledges nothing', async () => {
  const slow = gate();
  await client(server, {}, ({ seq, data }) => (seq === 3 && data.n === 3 && server.epoch === 'e1' ? slow.promise : undefined));
  publish(3);
  await turn(50);
  server.restore('e2');
  await turn(300);
  slow.open();
  await turn(50);
  expect(local.cursors()).toMatchObject({ 'user:alice': 0 });
  publish(1);
  await turn(50);
  expect(server.cursor()).toBe(1);
});

test('cursors above the head are forgotten once, and the messages that are there are handed over', async () => {
  const { seqs, weft, told } = await client(server);
  publish(5);
  await turn(50);
  server.restore('e1'); // the same epoch, which should not be
  publish(2);
  await turn(500);
  expect(told.filter(({ what }) => what === 'error').map(({ error }) => (error as { code?: string }).code)).toEqual(['cursor_ahead']);
  expect(weft.status.state).toBe('open');
  expect(seqs()).toEqual(['1', '2', '3', '4', '5', '1', '2']);
  expect(server.hellos.at(-1)!.cursors).toEqual({});
});

test('a store that fails is left, and what it held goes with it', async () => {
  const { told, seqs } = await client(server);
  publish(2);
  await turn(50);
  local.broken = new Error('quota');
  publish(2);
  await turn(50);
  expect(seqs()).toEqual(['1', '2', '3', '4']);
  expect(server.cursor()).toBe(4);
  expect(told.filter(({ what }) => what === 'error')).toEqual([{ what: 'error', error: local.broken }]);
  expect(local.cursors()).toBeUndefined();
  local.broken = undefined;
  crash();
  const after = await client(server);
  publish(1);
  await settled();
  expect(after.seqs(), 'the server knew').toEqual(['5']);
});

test.each(['getItem', 'setItem'] as const)('a page that may not use localStorage works without it (%s)', async (method) => {
  vi.mocked(Math.random).mockRestore();
  const denied = new Error('denied');
  vi.spyOn(local, method).mockImplementation(() => {
    throw denied;
  });
  vi.spyOn(local, 'removeItem').mockImplementation(() => {
    throw denied;
  });
  const { seqs, weft } = await client(server, { device: undefined as never });
  publish(1);
  await turn(50);
  expect([seqs(), server.cursor(), weft.device.length > 8]).toEqual([['1'], 1, true]);
});

test('a page without storage is a device of its own', async () => {
  vi.mocked(Math.random).mockRestore();
  vi.stubGlobal('localStorage', undefined);
  vi.stubGlobal('sessionStorage', undefined);
  const one = await client(server, { device: undefined as never });
  const two = await client(server, { device: undefined as never });
  expect(one.weft.device).not.toBe(two.weft.device);
});

test('what the store holds may be broken', async () => {
  await client(server);
  publish(2);
  await turn(50);
  for (const key of local.items.keys()) local.items.set(key, '{"cursors":');
  crash();
  const { seqs, told } = await client(server);
  publish(1);
  await turn(50);
  expect(seqs()).toEqual(['3']);
  expect(told.find(({ what }) => what === 'error')!.error).toBeInstanceOf(SyntaxError);
});

test('a store of the user is used in place of localStorage', async () => {
  const store = new MemoryStore();
  await client(server, { store });
  publish(1);
  await settled();
  expect(store.cursors()).toMatchObject({ 'user:alice': 1 });
  expect(local.cursors()).toBeUndefined();
});

test('cursors belong to url, user and device', async () => {
  const token = jwt(3_600_000);
  await client(server, { token });
  publish(2);
  await settled();
  crash();
  await client(server, { token, url: 'ws://other' });
  await client(server, { token, device: 'phone' });
  await client(server, { token: jwt(3_600_000, { tenant: 'acme' }) });
  const bob = new FakeServer({ user: 'bob' });
  await client(bob, { token: jwt(3_600_000, { sub: 'bob' }) });
  await client(server, { token: jwt(1_800_000) });
  expect(server.hellos.map(({ cursors }) => cursors['user:alice'])).toEqual([undefined, undefined, undefined, undefined, 2]);
  expect(bob.hellos[0]!.cursors).toEqual({});
});

test('the device is made up once, and given to the server', async () => {
  vi.mocked(Math.random).mockRestore();
  const one = await client(server, { device: undefined as never });
  const two = await client(server, { device: undefined as never });
  expect(one.weft.device).toMatch(/^[a-z0-9]{8,}$/);
  expect([two.weft.device, server.hellos[0]!.device]).toEqual([one.weft.device, one.weft.device]);
});

test('after close nothing is stored any more: another client may have begun', async () => {
  const slow = gate();
  const { weft } = await client(server, {}, () => slow.promise);
  publish(1);
  await settled();
  weft.close();
  slow.open();
  await turn(1_000);
  expect(local.cursors()).toMatchObject({ 'user:alice': 0 });
});
