// for await (const m of weft.messages())

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { connect } from '../src/index.js';
import { FakeServer, settled } from '../src/testing.js';
import { stubPage, turn } from './page.js';

let server: FakeServer;

beforeEach(() => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  stubPage();
  server = new FakeServer({ window: 3 });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const begin = (options = {}) =>
  connect({ url: 'ws://fake', token: 'x', device: 'd', WebSocket: server.WebSocket, shared: false, ...options });

test('a message is handled when the loop asks for the next one, and no more are read ahead than the window holds', async () => {
  const weft = begin();
  const loop = weft.messages();
  const first = loop.next();
  for (let i = 0; i < 10; i++) server.publish('t', i);
  expect((await first).value).toMatchObject({ seq: 1 });
  await turn(100);
  expect(server.cursor()).toBe(0);
  expect(server.session.lanes.get('user:alice')!.next).toBe(4);
  expect((await loop.next()).value).toMatchObject({ seq: 2 });
  await turn(100);
  expect(server.cursor()).toBe(1);
  expect((await loop.next()).value).toMatchObject({ seq: 3 });
  await turn(100);
  expect(server.cursor()).toBe(2);
  expect(server.session.lanes.get('user:alice')!.next).toBe(6);
});

test('what a loop leaves is not acknowledged and waits for the next one', async () => {
  const weft = begin();
  for (let i = 0; i < 3; i++) server.publish('t', i);
  const seen: number[] = [];
  for await (const { seq } of weft.messages()) {
    seen.push(seq);
    break;
  }
  await turn(50);
  expect(server.cursor(), 'the last one counts').toBe(1);
  server.publish('t', 3);
  for await (const { seq } of weft.messages()) {
    seen.push(seq);
    if (seq === 4) break;
    await turn(50);
  }
  await turn(50);
  expect(seen).toEqual([1, 2, 3, 4]);
  expect(server.cursor()).toBe(4);
});

test('a message comes to handlers and loops alike', async () => {
  const weft = begin();
  const handled: number[] = [];
  weft.on('t', ({ seq }) => handled.push(seq));
  const loops = [weft.messages(), weft.messages()];
  const first = loops.map((loop) => loop.next());
  server.publish('t', 1);
  expect((await Promise.all(first)).map(({ value }) => value!.seq)).toEqual([1, 1]);
  await turn(50);
  expect([handled, server.cursor()]).toEqual([[1], 0]);
  void loops[0]!.next();
  await turn(50);
  expect(server.cursor()).toBe(0);
  void loops[1]!.next();
  await turn(50);
  expect(server.cursor()).toBe(1);
});

test('close ends the loop', async () => {
  const weft = begin();
  const seen: number[] = [];
  const done = (async () => {
    for await (const { seq } of weft.messages()) seen.push(seq);
  })();
  server.publish('t', 1);
  await settled();
  weft.close();
  await done;
  expect(seen).toEqual([1]);
  expect(await weft.messages().next()).toEqual({ value: undefined, done: true });
});

test('what closes for good is thrown', async () => {
  const weft = begin();
  weft.listen('error', () => {});
  const next = weft.messages().next();
  await settled();
  server.close(4409, 'replaced');
  await expect(next).rejects.toMatchObject({ name: 'WeftError', code: 'replaced', close: 4409 });
});

test('with ack manual the loop acknowledges nothing by itself', async () => {
  const weft = begin({ ack: 'manual' });
  for (let i = 0; i < 2; i++) server.publish('t', i);
  for await (const m of weft.messages()) {
    if (m.seq === 2) break;
  }
  await turn(50);
  expect(server.acks).toEqual([]);
});
