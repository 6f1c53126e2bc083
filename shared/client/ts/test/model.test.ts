// Random sessions: kills, reloads, duplicates, handlers that take their time or fail, topics that come and go.
//
// What must hold: each page is handed each sequence of a mailbox at most once and in order, without a hole that no gap covers;
// nothing is acknowledged or stored that was not handled by then, on the page or one before it; in the end everything is.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { connect } from '../src/index.js';
import { FakeServer, settled } from '../src/testing.js';
import type { Message, Weft } from '../src/types.js';
import { MemoryStore, stubPage, turn } from './page.js';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] }));

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

/** Random numbers that a seed repeats (mulberry32). */
function randomOf(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const BOXES = ['user:alice', 'all', 'topic:news'];

class World {
  readonly server = new FakeServer({ window: 20, heartbeat: 1_000 });
  readonly local = new MemoryStore();
  readonly handled = new Map<string, Set<number>>(BOXES.map((to) => [to, new Set()]));
  readonly order: string[] = []; // what this page was handed
  last = new Map<string, number>(); // by mailbox, of this page
  handedOver = 0;
  pages = 0;
  weft!: Weft;

  constructor(
    readonly random: () => number,
    readonly onError: 'skip' | 'stop',
  ) {
    vi.spyOn(Math, 'random').mockImplementation(random);
    this.load();
  }

  chance(p: number): boolean {
    return this.random() < p;
  }

  /** Loads the page anew; nothing that the last one still does reaches anybody. */
  load(): void {
    const page = ++this.pages;
    const here = () => page === this.pages;
    const { server, local } = this;
    this.last = new Map();
    for (const session of server.sessions) session.onmessage = session.onclose = session.onopen = null;
    server.kill();
    vi.clearAllTimers();
    stubPage(local);
    const Gone = new FakeServer().WebSocket;
    const WebSocket = new Proxy(server.WebSocket, { construct: (target, args) => new (here() ? target : Gone)(...(args as [string, string[]])) });
    const store = { getItem: (key: string) => local.getItem(key), setItem: (key: string, value: string) => void (here() && local.setItem(key, value)) };
    const options = { url: ['ws://a', 'ws://b'], token: 'x', device: 'd', shared: false, topics: ['news'] };
    this.weft = connect({ ...options, WebSocket, store, onError: this.onError });
    this.weft.listen('error', () => {});
    this.weft.listen('failed', ({ message }) => {
      if (here()) this.note(message);
      message.ack();
    });
    this.weft.listen('gap', ({ to, first, last }) => {
      if (!here()) return;
      this.step(to, first, last);
      for (let seq = first; seq <= last; seq++) this.handled.get(to)!.add(seq);
    });
    this.weft.on('*', (message) => (here() ? this.handle(message, page) : new Promise(() => {})));
  }

  tries = new Map<Message, number>();

  async handle(message: Message, page: number): Promise<void> {
    const tries = this.tries.get(message) ?? 0;
    this.tries.set(message, tries + 1);
    if (!tries) this.step(message.to, message.seq, message.seq);
    this.handedOver++;
    if (this.chance(0.5)) await new Promise((resolve) => setTimeout(resolve, this.random() * 400));
    if (page !== this.pages) return new Promise(() => {}); // the page is gone
    if (this.chance(0.1)) throw new Error('not this time');
    this.note(message);
  }

  note({ to, seq }: Message): void {
    this.handled.get(to)!.add(seq);
  }

  /** Checks order and density as the page sees it. */
  step(to: string, first: number, last: number): void {
    const before = this.last.get(to);
    if (before !== undefined && first !== before + 1) throw new Error(`${to}: ${first} after ${before}`);
    this.last.set(to, last);
  }

  /** Checks that nothing is acknowledged or stored that was not handled. */
  check(): void {
    const stored = this.local.cursors() ?? {};
    for (const to of BOXES) {
      const claimed = Math.max(this.server.cursor(to), stored[to] ?? 0);
      const handled = this.handled.get(to)!;
      for (let seq = 1; seq <= claimed; seq++) if (!handled.has(seq)) throw new Error(`${to}/${seq} was not handled, and counts as such`);
    }
  }

  publish(): void {
    const to = BOXES[Math.floor(this.random() * BOXES.length)]!;
    if (this.chance(0.1)) {
      const count = 2 + Math.floor(this.random() * 3);
      this.server.gap(count, 'expired', to);
    } else this.server.publish('t', 1, { to });
  }

  repeat(): void {
    const { session } = this.server;
    const [to, lane] = [...session.lanes][Math.floor(this.random() * session.lanes.size)] ?? [];
    if (to && lane && lane.next > 1) session.say(this.server.line(1 + Math.floor(this.random() * (lane.next - 1)), to));
  }

  async act(): Promise<void> {
    const dice = this.random();
    const { server } = this;
    if (dice < 0.5) this.publish();
    else if (dice < 0.6) this.repeat();
    else if (dice < 0.65) server.kill();
    else if (dice < 0.68) server.silent = !server.silent;
    else if (dice < 0.71) server.down = !server.down;
    else if (dice < 0.74) server.drain(200);
    else if (dice < 0.76) server.close([4408, 4429, 4503][Math.floor(this.random() * 3)]!, 'x');
    else if (dice < 0.78) this.load();
    else if (dice < 0.82) void this.weft.unsubscribe('news');
    else if (dice < 0.88) void this.weft.subscribe('news');
    else await turn(this.random() * 1_000);
    if (this.chance(0.3)) await settled();
  }

  async end(): Promise<void> {
    this.server.silent = this.server.down = false;
    void this.weft.subscribe('news');
    for (let i = 0; i < 300; i++) await turn(500);
  }
}

test.each(Array.from({ length: 40 }, (_, i) => i + 1))('seed %i', { timeout: 60_000 }, async (seed) => {
  const world = new World(randomOf(seed), seed % 2 ? 'skip' : 'stop');
  await settled();
  for (let i = 0; i < 300; i++) {
    await world.act();
    world.check();
  }
  await world.end();
  world.check();
  expect(world.handedOver).toBeGreaterThan(20);
  for (const to of BOXES) expect([to, world.server.cursor(to)]).toEqual([to, world.server.head(to)]);
});
