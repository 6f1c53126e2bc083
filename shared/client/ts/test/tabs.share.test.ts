// From connect() to the wire: who shares, who does not, and what a tab does before it knows.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Client } from '../src/client.js';
import { Connection } from '../src/connection.js';
import { WeftError } from '../src/errors.js';
import { connect } from '../src/index.js';
import { share } from '../src/tabs.js';
import type { Scope } from '../src/tabs-member.js';
import { FakeServer, Session } from '../src/testing.js';
import type { Options, Status } from '../src/types.js';
import { claims } from '../src/wire.js';
import { Browser, Page } from './browser.js';
import { jwt, MemoryStore, stubPage, turn } from './page.js';

let server: FakeServer;
let browser: Browser;
let store: MemoryStore; // of the origin

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  browser = new Browser();
  store = new MemoryStore();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const core = { connect: (...args: ConstructorParameters<typeof Connection>) => new Connection(...args), claims, WeftError };
const upTo = (n: number, from = 1) => Array.from({ length: n - from + 1 }, (_, i) => from + i);

// The sockets of a page end with it, and it opens no more.
function socketsOf(page: Page): typeof server.WebSocket {
  const of = server;
  return class extends Session {
    constructor(url: string, protocols: string[]) {
      if (!page.alive) throw new Error('the page is gone');
      super(of, url, protocols);
    }
    override say(...objects: (object | string)[]): void {
      if (page.alive) super.say(...objects);
      else this.close();
    }
  };
}

interface Visit {
  readonly page: Page;
  readonly client: Client;
  readonly seen: number[];
  readonly statuses: Status[];
  readonly errors: Error[];
}

function visit(options: Partial<Options> = {}, page = browser.page(), change: (scope: Scope) => Scope = (scope) => scope): Visit {
  const all: Options = { url: 'ws://fake', token: jwt(3_600_000), ...options };
  const config = { urls: ['ws://fake/'], token: all.token, store, device: all.device ?? 'shared', WebSocket: socketsOf(page) };
  const seen: number[] = [];
  const statuses: Status[] = [];
  const errors: Error[] = [];
  const client = page.open((scope) => new Client(all, (sink) => share(all, config, sink, core, change(scope))));
  client.on('*', ({ seq }) => void seen.push(seq));
  client.listen('status', (status) => void statuses.push(status));
  client.listen('error', (error) => void errors.push(error));
  return { page, client, seen, statuses, errors };
}

const welcomed = () => server.sessions.filter((session) => session.welcomed);

// The same tab, loaded again.
function reload({ page }: Visit): Page {
  const next = browser.page();
  for (const [key, value] of page.session) next.session.set(key, value);
  page.kill();
  return next;
}

test('the leader dies in the middle of 100 messages', async () => {
  const tabs = [visit(), visit(), visit()];
  await turn(200);
  expect(server.hellos).toHaveLength(1);
  for (let i = 1; i <= 100; i++) {
    server.publish('tick', i);
    if (i === 60) tabs[0]!.page.kill();
    if (i % 20 === 0) await turn(3);
  }
  await turn(1_000);
  for (const { seen } of tabs.slice(1)) expect(seen).toEqual(upTo(100));
  expect(server.hellos).toHaveLength(2);
  expect(server.cursor()).toBe(100);
  expect(welcomed()).toHaveLength(1);
});

test('the new leader resumes from what the old one has stored', async () => {
  const tabs = [visit(), visit()];
  await turn(200);
  upTo(10).forEach((i) => server.publish('tick', i));
  await turn(200);
  tabs[0]!.page.kill();
  await turn(200);
  expect(server.hellos.at(-1)).toMatchObject({ device: 'shared', epoch: 'e1', cursors: { 'user:alice': 10 } });
  expect(store.cursors()).toMatchObject({ 'user:alice': 10 });
  expect(tabs[1]!.client.device).toBe('shared');
});

test('a token is asked for once by each tab, and used', async () => {
  const tokens = [vi.fn(() => jwt(3_600_000, { tab: 1 })), vi.fn(async () => jwt(3_600_000, { tab: 2 }))];
  const tabs = tokens.map((token) => visit({ token }));
  await turn(200);
  expect(tokens.map((token) => token.mock.calls)).toEqual([[['connect']], [['connect']]]);
  expect(claims(server.hellos[0]!.token)).toMatchObject({ tab: 1 });
  tabs[0]!.page.kill();
  await turn(200);
  expect(tokens[1]).toHaveBeenCalledTimes(1);
  expect(claims(server.hellos[1]!.token)).toMatchObject({ tab: 2 });
});

test('a token that has expired before a tab leads is replaced', async () => {
  const token = vi.fn(() => jwt(3_600_000));
  const tabs = [visit(), visit({ token })];
  await turn(200);
  vi.setSystemTime(Date.now() + 3_590_000);
  tabs[0]!.page.kill();
  await turn(200);
  expect(token.mock.calls).toEqual([['connect'], ['connect']]);
  expect(tabs[1]!.client.status.state).toBe('open');
});

test('token() is asked again when it fails, and at once when the network is back', async () => {
  const { fire } = stubPage(store);
  const token = vi.fn(async () => jwt(3_600_000)).mockRejectedValueOnce(new Error('no network'));
  const { client, statuses, errors } = visit({ token });
  vi.spyOn(Math, 'random').mockReturnValue(0.99);
  await turn(100);
  expect(client.status).toMatchObject({ state: 'waiting', reason: 'no network', retryAt: expect.any(Number) });
  expect(errors).toEqual([new Error('no network')]);
  fire('online');
  await turn(50);
  expect(statuses.map(({ state }) => state)).toEqual(['waiting', 'connecting', 'connecting', 'open']);
  vi.restoreAllMocks();
});

test('a token() that never answers is given up', async () => {
  const token = vi.fn(async () => jwt(3_600_000)).mockReturnValueOnce(new Promise(() => {}));
  const { client } = visit({ token });
  await turn(31_000);
  expect(client.status.state).toBe('open');
});

test('closing a tab that is not open yet ends it', async () => {
  let answer: (token: string) => void = () => {};
  const { client, statuses } = visit({ token: () => new Promise((resolve) => (answer = resolve)) });
  const subscribed = expect(client.subscribe('news')).rejects.toMatchObject({ name: 'WeftError', code: 'close' });
  await turn(100);
  client.close();
  client.close();
  await subscribed;
  answer(jwt(3_600_000));
  await turn(60_000);
  expect(server.sessions).toEqual([]);
  expect(statuses).toEqual([{ state: 'closed', code: 1000, reason: 'close' }]);
  expect(browser.held.size).toBe(0);
});

test('topics that are wanted before it is open are subscribed to', async () => {
  const { client } = visit({ topics: ['news'] });
  const both = client.subscribe('sport');
  await turn(200);
  await both;
  expect([...server.session.lanes.keys()]).toEqual(['user:alice', 'all', 'topic:news', 'topic:sport']);
  visit({ topics: ['weather'] });
  await turn(200);
  expect([...server.session.lanes.keys()]).toContain('topic:weather');
  expect(server.hellos).toHaveLength(1);
});

test('a tab of another user, tenant or device sees nothing of this one', async () => {
  const mine = server;
  const alice = visit();
  const others: Visit[] = [];
  for (const [user, claims, device] of [['bob', { sub: 'bob' }, 'shared'], ['alice', { tenant: 't' }, 'shared'], ['alice', {}, 'other']] as const) {
    server = new FakeServer({ user });
    others.push(visit({ token: jwt(3_600_000, claims), device }));
    await turn(200);
    expect(welcomed()).toHaveLength(1);
  }
  mine.publish('secret', 1);
  await turn(200);
  expect(alice.seen).toEqual([1]);
  for (const other of others) expect(other.seen).toEqual([]);
});

test('a token that does not say whose it is gives each tab a connection and a device of its own', async () => {
  const tabs = [visit({ token: 'opaque' }), visit({ token: 'opaque' })];
  await turn(200);
  expect(welcomed()).toHaveLength(2);
  expect(new Set(tabs.map(({ client }) => client.device)).size).toBe(2);
});

test('shared: false is a connection and a device of its own, which outlive a reload', async () => {
  const first = visit({ shared: false });
  await turn(200);
  const device = first.client.device;
  expect(device).not.toBe('shared');
  upTo(5).forEach((i) => server.publish('tick', i));
  await turn(200);
  expect(server.cursor(undefined, device)).toBe(5);
  const again = visit({ shared: false }, reload(first));
  upTo(2).forEach((i) => server.publish('tick', i));
  await turn(200);
  expect(again.client.device).toBe(device);
  expect(again.seen).toEqual([6, 7]);
  expect(store.items.size).toBe(0); // nothing of it is left for other tabs
  again.client.close();
  await turn(200);
  const next = visit({ shared: false }, again.page);
  await turn(200);
  expect(next.client.device).toBe(device);
});

test('a copy of a tab with a device of its own is another device', async () => {
  const first = visit({ shared: false });
  await turn(200);
  const page = browser.page();
  for (const [key, value] of first.page.session) page.session.set(key, value);
  const copy = visit({ shared: false }, page);
  await turn(200);
  expect(copy.client.device).not.toBe(first.client.device);
  expect(welcomed()).toHaveLength(2);
  const given = visit({ shared: false, device: 'given' });
  await turn(200);
  expect(given.client.device).toBe('given');
});

test('a tab with a device of its own that was closed while it opened leaves nothing behind', async () => {
  const { client } = visit({ shared: false });
  client.close();
  await turn(200);
  expect(server.sessions).toEqual([]);
  expect(browser.held.size).toBe(0);
});

test('a page that may not use locks has a connection of its own', async () => {
  const denied = () => Promise.reject(new DOMException('no', 'SecurityError'));
  const { client } = visit({ topics: ['news'] }, undefined, (scope) => ({ ...scope, locks: { request: denied as never, query: denied } }));
  await turn(200);
  expect(client.status.state).toBe('open');
  expect(server.session.lanes.has('topic:news')).toBe(true);
});

test('a page that is put aside lets others lead, and goes on when it is shown again', async () => {
  const events = [new EventTarget(), new EventTarget()];
  const tabs = events.map((target) => visit({}, undefined, (scope) => ({ ...scope, events: target })));
  const [first, second] = tabs as [Visit, Visit];
  await turn(200);
  const transition = (type: string, persisted: boolean) => events[0]!.dispatchEvent(Object.assign(new Event(type), { persisted }));
  transition('pagehide', false);
  expect(browser.held.size).toBe(3);
  transition('pagehide', true);
  upTo(5).forEach((i) => server.publish('tick', i));
  await turn(2_000);
  expect(second.client.status.leads).toBe(true);
  expect(browser.held.size).toBe(2);
  expect(second.seen).toEqual(upTo(5));
  expect(server.cursor()).toBe(5);
  transition('pageshow', true);
  await turn(200);
  server.publish('tick', 6);
  await turn(200);
  for (const { seen } of tabs) expect(seen).toEqual(upTo(6));
  expect(first.client.status.state).toBe('open');
  expect(welcomed()).toHaveLength(1);
});

test('connect() shares where there are locks', async () => {
  stubPage(store);
  const seen: number[][] = [];
  const open = async () => {
    const page = browser.page();
    const { locks, BroadcastChannel, session } = page.scope();
    vi.stubGlobal('navigator', { locks });
    vi.stubGlobal('BroadcastChannel', BroadcastChannel);
    vi.stubGlobal('sessionStorage', session);
    const weft = connect({ url: 'ws://fake', token: jwt(3_600_000), topics: ['news'], WebSocket: server.WebSocket });
    const mine: number[] = [];
    seen.push(mine);
    weft.on('*', ({ seq }) => void mine.push(seq));
    await vi.dynamicImportSettled();
    await turn(200);
    return weft;
  };
  const tabs = [await open(), await open()];
  server.publish('tick', 1);
  await turn(200);
  expect(seen).toEqual([[1], [1]]);
  expect(server.hellos).toHaveLength(1);
  expect(new Set(tabs.map(({ device }) => device)).size).toBe(1);
  tabs[0]!.close();
  await turn(2_000);
  expect(tabs[0]!.status.state).toBe('closed');
  expect(tabs[1]!.status.state).toBe('open');
});
