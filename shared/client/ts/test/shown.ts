// A page that has loaded the client and shares its connection.

import { vi } from 'vitest';

import { Client } from '../src/client.js';
import { WeftError } from '../src/errors.js';
import { Tab } from '../src/tabs-member.js';
import type { Gap, Message, Sink, Status } from '../src/types.js';
import { Browser, type Page } from './browser.js';
import { Fabric, OWN } from './fabric.js';

type Settle = () => void;

export class Shown {
  readonly client: Client;
  readonly tab: Tab;
  readonly seen: number[] = []; // of the own mailbox, as they were handed over
  readonly handled: number[] = [];
  readonly statuses: Status[] = [];
  readonly gaps: Gap[] = [];
  readonly waiting: [seq: number, settle: Settle][] = []; // handlers that have not settled, while it is slow
  slow = false;

  constructor(
    readonly page: Page,
    fabric: Fabric,
    topics: string[] = [],
    handles = true,
  ) {
    let tab: Tab;
    this.client = page.open((scope) => {
      const sharing = { name: 'weft:test', device: 'device', core: { WeftError }, open: (sink: Sink) => fabric.open(page, sink) };
      return new Client({ url: 'https://x', token: 'x', topics }, (sink) => (tab = new Tab(sharing, sink, scope)));
    });
    this.tab = tab!;
    if (handles) this.client.on('*', (message) => this.handle(message));
    this.client.listen('status', (status) => void this.statuses.push(status));
    this.client.listen('gap', (gap) => void this.gaps.push(gap));
    this.client.listen('error', () => {});
  }

  handle({ to, seq }: Message): unknown {
    if (to !== OWN) return undefined;
    this.seen.push(seq);
    if (!this.slow) return void this.handled.push(seq);
    return new Promise<void>((resolve) => {
      this.waiting.push([seq, () => (this.handled.push(seq), resolve())]);
    });
  }

  settle(count = this.waiting.length): void {
    for (const [, settle] of this.waiting.splice(0, count)) settle();
  }
}

export const pass = (ms = 100) => vi.advanceTimersByTimeAsync(ms);
export const upTo = (n: number, from = 1) => Array.from({ length: n - from + 1 }, (_, i) => from + i);

export function world(tabs: number, topics: string[][] = []) {
  const browser = new Browser();
  const fabric = new Fabric();
  const show = (page = browser.page(), its: string[] = [], handles = true) => new Shown(page, fabric, its, handles);
  const shown = Array.from({ length: tabs }, (_, i) => show(browser.page(), topics[i] ?? []));
  return { browser, fabric, show, shown };
}
