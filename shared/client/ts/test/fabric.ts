// What lies behind the seam: mailboxes, the one connection that the device may have, and the cursors of its store.

import type { Address, Item, Link, Sink } from '../src/types.js';
import type { Page } from './browser.js';

export const OWN = 'user:alice';

const SLOW = 5; // ms from here to there

/** What was acknowledged, and by which tab's connection. */
export interface Acked {
  readonly to: Address;
  readonly seq: number;
}

export class Fabric {
  readonly heads = new Map<Address, number>([[OWN, 0]]);
  readonly stored = new Map<Address, number>(); // what the store of the tabs has
  readonly acks: Acked[] = [];
  opened = 0; // connections
  link: Hose | undefined; // the one that is open
  series = 'a';
  delay = SLOW; // ms until a connection has been opened
  onack: (ack: Acked) => void = () => {};

  publish(to: Address = OWN, count = 1): void {
    for (let i = 0; i < count; i++) {
      const seq = (this.heads.get(to) ?? 0) + 1;
      this.heads.set(to, seq);
      this.link?.send([item(to, seq)]);
    }
  }

  live(to: Address = OWN): void {
    this.link?.send([{ to, first: 0, last: 0, msg: { id: 'live', at: 1, live: true, text: '0', data: 0 } }]);
  }

  cursor(to: Address = OWN): number {
    return this.stored.get(to) ?? 0;
  }

  /** Makes the connection of a tab, as the Connection does: it replaces the one before. */
  open(page: Page, sink: Sink): Link {
    this.opened++;
    return new Hose(this, page, sink);
  }

  /** The connection breaks; the tab that has it makes another. */
  cut(): void {
    this.link?.reopen();
  }
}

export function item(to: Address, seq: number): Item {
  return { to, first: seq, last: seq, msg: { seq, id: `${to}/${seq}`, type: 'tick', at: 1, data: seq, text: String(seq) } };
}

class Hose implements Link {
  readonly device = 'device';
  #fabric: Fabric;
  #page: Page;
  #sink: Sink;
  #topics: readonly string[] = [];
  #lanes = new Map<Address, number>(); // the next sequence of each mailbox of the session
  #session = 0;
  #closed = false;

  constructor(fabric: Fabric, page: Page, sink: Sink) {
    this.#fabric = fabric;
    this.#page = page;
    this.#sink = sink;
    queueMicrotask(() => this.reopen());
  }

  reopen(): void {
    const session = ++this.#session;
    this.#lanes.clear();
    this.#say(() => this.#sink.status({ state: 'connecting' }));
    setTimeout(() => this.#page.run(() => session === this.#session && this.#begin()), this.#fabric.delay);
  }

  replaced(): void {
    this.#session++;
    this.#lanes.clear();
    setTimeout(() => this.#say(() => this.#sink.status({ state: 'closed', code: 4409, reason: 'replaced' })), SLOW);
  }

  end(code: number): void {
    this.#say(() => this.#sink.status({ state: 'closed', code, reason: 'forbidden' }));
    this.#closed = true;
  }

  fail(error: Error): void {
    this.#say(() => this.#sink.error(error));
  }

  send(items: Item[]): void {
    const session = this.#session;
    const news = items.filter(({ to, last }) => {
      const next = this.#lanes.get(to);
      if (next === undefined || (last && last !== next)) return false;
      if (last) this.#lanes.set(to, next + 1);
      return true;
    });
    if (news.length) setTimeout(() => this.#say(() => session === this.#session && this.#sink.take(news)), SLOW);
  }

  want(topics: readonly string[]): Promise<void> {
    this.#topics = topics;
    return new Promise((resolve) => {
      setTimeout(() => {
        if (this.#closed || this.#fabric.link !== this) return;
        this.#enter();
        this.#say(resolve);
      }, 2 * SLOW);
    });
  }

  ack(to: Address, seq: number): void {
    const { stored, acks, onack } = this.#fabric;
    if (!this.#page.alive || this.#closed || seq <= (stored.get(to) ?? 0)) return;
    stored.set(to, seq);
    acks.push({ to, seq });
    onack({ to, seq });
  }

  close(): void {
    if (this.#fabric.link === this) this.#fabric.link = undefined;
    this.#closed = true;
    this.#sink.status({ state: 'closed', code: 1000, reason: 'close' });
  }

  #begin(): void {
    if (this.#closed) return;
    const { link } = this.#fabric;
    if (link !== this) link?.replaced();
    this.#fabric.link = this;
    this.#say(() => this.#sink.status({ state: 'open' }));
    this.#enter();
  }

  #enter(): void {
    const { heads, stored, series } = this.#fabric;
    const wanted = [OWN, ...this.#topics.map((topic) => `topic:${topic}`)];
    for (const to of this.#lanes.keys()) if (!wanted.includes(to)) this.#lanes.delete(to);
    const fresh = wanted.filter((to) => !this.#lanes.has(to));
    for (const to of fresh) {
      const head = heads.get(to) ?? 0;
      if (!stored.has(to)) stored.set(to, to === OWN ? 0 : head);
      this.#lanes.set(to, stored.get(to)! + 1);
    }
    this.#say(() => this.#sink.begin(series, Object.fromEntries(wanted.map((to) => [to, stored.get(to)!]))));
    for (const to of fresh) {
      for (let seq = this.#lanes.get(to)!; seq <= (heads.get(to) ?? 0); seq++) this.send([item(to, seq)]);
    }
  }

  // say tells the tab, if it is still there.
  #say(what: () => void): void {
    this.#page.run(() => {
      if (!this.#closed) what();
    });
  }
}
