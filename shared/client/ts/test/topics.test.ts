// Subscribing: promises, reconnects, rights that are lost.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { FakeServer, settled } from '../src/testing.js';
import { client, gate, stubPage, turn } from './page.js';

let server: FakeServer;

beforeEach(() => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  stubPage();
  server = new FakeServer();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const said = (t: string) => server.session.heard.filter((object) => object.t === t).map(({ topics }) => topics);

/** Notes whether a promise has settled. */
const watched = (promise: Promise<void>) => {
  const state = { done: false };
  promise.then(() => (state.done = true));
  return state;
};

test('subscribe resolves when the server has answered, and is idempotent', async () => {
  const { weft, seqs } = await client(server, { topics: ['news'] });
  await weft.subscribe('sport', 'news');
  await weft.subscribe('sport');
  expect(said('sub')).toEqual([['sport']]);
  server.publish('t', 1, { to: 'topic:sport' });
  server.publish('t', 1, { to: 'topic:news' });
  server.publish('t', 1, { to: 'topic:other' });
  await settled();
  expect(seqs()).toEqual(['topic:sport/1', 'topic:news/1']);
});

test('what is subscribed before the connection is in the hello', async () => {
  server.down = true;
  const { weft } = await client(server);
  const news = watched(weft.subscribe('news'));
  await turn(2_000);
  expect(news.done).toBe(false);
  server.down = false;
  await turn(5_000);
  expect(news.done).toBe(true);
  expect(server.hellos.map(({ topics }) => topics)).toEqual([['news']]);
  expect(said('sub')).toEqual([]);
});

test('subscriptions survive reconnects, and unsubscriptions too', async () => {
  const { weft, seqs } = await client(server, { topics: ['a', 'b'] });
  await weft.unsubscribe('a');
  server.publish('t', 1, { to: 'topic:a' });
  server.publish('t', 1, { to: 'topic:b' });
  server.kill();
  await turn(300);
  server.publish('t', 1, { to: 'topic:a' });
  server.publish('t', 1, { to: 'topic:b' });
  await settled();
  expect(server.hellos.at(-1)!.topics).toEqual(['b']);
  expect(seqs()).toEqual(['topic:b/1', 'topic:b/2']);
});

test('unsubscribe while the connection is away takes effect with the next one', async () => {
  const { weft } = await client(server, { topics: ['a', 'b'] });
  server.kill();
  await settled();
  const gone = watched(weft.unsubscribe('a'));
  await settled();
  expect(gone.done).toBe(false);
  await turn(300);
  expect(gone.done).toBe(true);
  expect(server.hellos.at(-1)!.topics).toEqual(['b']);
  expect([...server.session.lanes.keys()]).toEqual(['user:alice', 'all', 'topic:b']);
});

test('what changes between hello and welcome is said after it', async () => {
  const { weft } = await client(server, { topics: ['a', 'b'] });
  server.check = () => {
    void weft.unsubscribe('a');
    void weft.subscribe('c');
    return 0;
  };
  server.kill();
  await turn(1_000);
  expect([...server.session.lanes.keys()].sort()).toEqual(['all', 'topic:b', 'topic:c', 'user:alice']);
});

test('quick changes end as the last one says', async () => {
  const { weft, told } = await client(server);
  for (let i = 0; i < 3; i++) {
    void weft.subscribe('a', 'b');
    void weft.unsubscribe('a');
  }
  await weft.subscribe('c');
  await settled();
  expect([...server.session.lanes.keys()].sort()).toEqual(['all', 'topic:b', 'topic:c', 'user:alice']);
  expect(told.filter(({ what }) => what === 'error')).toEqual([]);
  await weft.unsubscribe('b', 'c');
  expect([...server.session.lanes.keys()].sort()).toEqual(['all', 'user:alice']);
});

test('what is subscribed again goes on where it was, and nothing comes twice', async () => {
  const slow = gate();
  const { weft, seqs } = await client(server, { topics: ['news'] }, ({ seq }) => (seq === 2 ? slow.promise : undefined));
  for (let i = 0; i < 3; i++) server.publish('t', i, { to: 'topic:news' });
  await settled();
  await weft.unsubscribe('news');
  expect(server.acks, 'what was handled is acknowledged before').toEqual([{ device: 'laptop', to: 'topic:news', seq: 1 }]);
  slow.open();
  server.publish('t', 4, { to: 'topic:news' });
  await settled();
  await weft.subscribe('news');
  await turn(50);
  expect(seqs()).toEqual([1, 2, 3, 4].map((n) => `topic:news/${n}`));
  expect(server.cursor('topic:news')).toBe(4);
});

test('a sub that the server could not do now is said again', async () => {
  const { weft } = await client(server);
  server.silent = true;
  const news = watched(weft.subscribe('news'));
  await settled();
  server.silent = false;
  server.session.say({ t: 'error', code: 'unavailable', message: 'the archive is away', retry: true });
  await turn(4_999);
  expect(said('sub')).toHaveLength(1);
  await turn(1);
  expect(said('sub')).toHaveLength(2);
  expect(news.done).toBe(true);
});

test('a topic that a fresh token does not allow is not asked for again', async () => {
  const { weft, told } = await client(server, { topics: ['a', 'b'] });
  server.session.lanes.delete('topic:a');
  server.session.say({ t: 'unsub', mailboxes: { 'user:alice': { head: 0, next: 1 }, all: { head: 0, next: 1 }, 'topic:b': { head: 0, next: 1 } } });
  await settled();
  expect(told.at(-1)!.error).toMatchObject({ code: 'forbidden' });
  await weft.subscribe('c');
  expect(said('sub')).toEqual([['c']]);
  server.kill();
  await turn(300);
  expect(server.hellos.at(-1)!.topics).toEqual(['b', 'c']);
});

test('a hundred topics are one hello and one flush', async () => {
  const topics = Array.from({ length: 100 }, (_, i) => `t${i}`);
  const { seqs } = await client(server, { topics });
  for (const topic of topics) server.publish('t', 1, { to: `topic:${topic}` });
  await turn(50);
  expect(seqs()).toHaveLength(100);
  expect(server.acks).toHaveLength(100);
  server.kill();
  await turn(300);
  expect(Object.values(server.hellos.at(-1)!.cursors).filter((seq) => seq === 1)).toHaveLength(100);
});
