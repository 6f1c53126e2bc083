// Tabs that open, close, crash, freeze, reload and lose their connection at random moments, while handlers take random times.
// Each seed is one history; a failure names it.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Browser } from './browser.js';
import { Fabric, OWN } from './fabric.js';
import { Shown } from './shown.js';

const SEEDS = 60;
const STEPS = 60;
const TABS = 5;
const LONG = 30_000; // ms: more than a leader or a follower may be silent

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

// mulberry32
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class History {
  readonly browser = new Browser();
  readonly fabric = new Fabric();
  readonly tabs = new Set<Shown>();
  readonly faults: string[] = [];
  away = 0; // gaps
  #random: () => number;
  #freeze: number; // ms at most
  #expected = new Map<Shown, number>(); // what it has to see first; absent until it is known

  constructor(seed: number, freeze: number) {
    this.#random = random(seed);
    vi.spyOn(Math, 'random').mockImplementation(random(-seed));
    this.#freeze = freeze;
    this.browser.latency = () => this.#below(20);
    this.fabric.onack = ({ seq }) => this.#acked(seq);
  }

  async run(): Promise<void> {
    this.#open();
    for (let i = 0; i < STEPS; i++) {
      this.#step();
      await vi.advanceTimersByTimeAsync(this.#below(this.#below(4) ? 30 : 2_000));
    }
    for (const tab of this.tabs) tab.page.thaw();
    await vi.advanceTimersByTimeAsync(2 * LONG);
    if (!this.tabs.size) this.#open();
    await vi.advanceTimersByTimeAsync(LONG);
    this.fabric.publish();
    await vi.advanceTimersByTimeAsync(LONG);
    this.#judge();
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n);
  }

  #step(): void {
    const tabs = [...this.tabs];
    const tab = tabs[this.#below(tabs.length)];
    const what = this.#below(20);
    if (what < 9) return this.fabric.publish(OWN, 1 + this.#below(4));
    if (!tab || (what < 12 && tabs.length < TABS)) return void this.#open();
    if (what < 14) return this.#kill(tab);
    if (what < 15) return this.#reload(tab);
    if (what < 16) return void (this.tabs.delete(tab), tab.client.close());
    if (what < 18) return this.fabric.cut();
    tab.page.freeze();
    setTimeout(() => tab.page.thaw(), this.#below(this.#freeze));
  }

  #open(page = this.browser.page(), first?: number): Shown {
    const tab: Shown = new Shown(page, this.fabric, [], false);
    if (first !== undefined) this.#expected.set(tab, first);
    tab.client.on('*', ({ seq }) => {
      const expected = this.#expected.get(tab);
      if (expected === undefined && seq <= this.fabric.cursor() && this.tabs.has(tab)) this.#fault(`a new tab got ${seq}, which was acknowledged`);
      if (expected !== undefined && seq !== expected) this.#fault(`${seq} instead of ${expected}`);
      this.#expected.set(tab, seq + 1);
      tab.seen.push(seq);
      const took = () => void tab.handled.push(seq);
      return this.#below(2) ? took() : new Promise<void>((resolve) => setTimeout(() => tab.page.run(() => resolve(took())), this.#below(400)));
    });
    // What was acknowledged while a tab was reloaded is lost to it when all others that had it have gone meanwhile.
    tab.client.listen('gap', ({ first: from, last, why }) => {
      const expected = this.#expected.get(tab);
      if (first === undefined || tab.seen.length || from !== expected || why !== 'away') this.#fault(`a gap ${from} to ${last} instead of ${expected}`);
      this.#expected.set(tab, last + 1);
      this.away++;
    });
    this.tabs.add(tab);
    return tab;
  }

  #kill(tab: Shown): void {
    this.tabs.delete(tab);
    tab.page.kill();
  }

  // A reloaded tab goes on behind what it had settled without a hole.
  #reload(tab: Shown): void {
    if (tab.page.frozen) return;
    const page = this.browser.page();
    for (const [key, value] of tab.page.session) page.session.set(key, value);
    this.#kill(tab);
    const settled = new Set(tab.handled);
    let first = tab.seen[0];
    while (first !== undefined && settled.has(first)) first++;
    const stored = page.session.get('weft:test');
    if (stored && first === undefined) first = (JSON.parse(stored).acked[OWN] as number) + 1;
    this.#open(page, first);
  }

  #acked(seq: number): void {
    for (const tab of this.tabs) {
      if (this.#freeze >= LONG) continue; // a tab that is frozen for so long is not waited for
      const handled = new Set(tab.handled);
      for (const had of tab.seen) if (had <= seq && !handled.has(had)) this.#fault(`${had} was acknowledged and not handled`);
    }
  }

  #judge(): void {
    const head = this.fabric.heads.get(OWN)!;
    if (this.fabric.cursor() !== head) this.#fault(`acknowledged up to ${this.fabric.cursor()} of ${head}`);
    for (const tab of this.tabs) {
      if (tab.seen.at(-1) !== head) this.#fault(`a tab saw ${tab.seen.at(-1)} last, not ${head}`);
      if (tab.client.status.state !== 'open') this.#fault(`a tab is ${tab.client.status.state}`);
    }
    if ([...this.tabs].filter((tab) => tab.tab.leads).length !== 1) this.#fault('not one tab leads');
  }

  #fault(what: string): void {
    this.faults.push(what);
  }
}

test.each([
  ['short', 8_000],
  ['long', 2 * LONG],
])('whatever tabs do, with %s freezes, each sees each message once and in order', async (_, freeze) => {
  let [away, acks] = [0, 0];
  for (let seed = 1; seed <= SEEDS; seed++) {
    const history = new History(seed, freeze);
    await history.run();
    expect(history.faults, `seed ${seed}`).toEqual([]);
    away += history.away;
    acks += history.fabric.acks.length;
    for (const tab of history.tabs) tab.client.close();
    vi.clearAllTimers();
  }
  expect(away).toBeLessThan(SEEDS / 10);
  expect(acks).toBeGreaterThan(SEEDS * 10);
}, 120_000);
