// A tab that shares its connection.

import type { Core } from './link.js';
import { Leader, raise, type Seat } from './tabs-leader.js';
import { after, BEAT, type Cursors, has, MISSES, type Order, type Report } from './tabs-words.js';
import type { Address, Item, Link, Sink, Status } from './types.js';

// What a tab keeps of each mailbox, for others that come back: so many items, and of their payloads so many characters.
const RECENT_ITEMS = 4096;
const RECENT_SIZE = 256 * 1024;

// How long a tab that has lost the lock to lead stays away from it, in ms.
const AGAIN = 1_000;

/** What tabs share by; the browser's own, but for tests. */
export interface Scope {
  readonly locks: Pick<LockManager, 'request' | 'query'>;
  readonly BroadcastChannel: new (name: string) => Pick<BroadcastChannel, 'postMessage' | 'close' | 'onmessage'>;
  /** Outlives a reload of the tab and belongs to it alone. */
  readonly session?: Pick<Storage, 'getItem' | 'setItem'> | undefined;
  readonly events?: Pick<EventTarget, 'addEventListener' | 'removeEventListener'> | undefined;
}

/** Who shares what with whom. */
export interface Sharing {
  /** Tabs with the same name share: it says which server, which user and which device. */
  readonly name: string;
  readonly device: string;
  readonly core: Pick<Core, 'WeftError'>;
  /** Makes the connection, when this tab leads. */
  open(sink: Sink): Link;
}

// Recent is what a tab has had last of a mailbox, without a hole.
interface Recent {
  items: Item[];
  size: number;
}

interface Wish {
  want: number;
  resolve(): void;
  reject(error: Error): void;
}

/** The Link of a tab that shares. It is closed by its own close, or when the server ends the connection for good. */
export class Tab implements Link {
  readonly device: string;
  readonly #id: string = crypto.randomUUID();
  readonly #sharing: Sharing;
  readonly #sink: Sink;
  readonly #scope: Scope;

  #channel: InstanceType<Scope['BroadcastChannel']> | undefined; // undefined while this tab is away
  #away = new AbortController(); // ends what this tab holds and waits for
  #queue = new AbortController(); // ends its waiting to lead
  #leader: Leader | undefined;
  #unseat = () => {}; // lets go of the lock to lead
  #beat: ReturnType<typeof setInterval> | undefined;
  #heard = true; // the leader, since the last beat
  #missed = 0; // beats without it
  #closed = false;
  #told = ''; // the last status, as JSON

  #term = 0;
  #joined = false; // the leader has answered
  #series = '';
  #acked = new Map<Address, number>(); // what the sink acknowledged of each mailbox that it ever had in this series
  #got = new Map<Address, number>(); // the last sequence that came of the mailboxes that it has
  #recent = new Map<Address, Recent>();
  #unsaid = new Set<Address>(); // acknowledged, and not said to the leader
  #topics: readonly string[] = [];
  #want = 0; // how often it has wanted
  #wishes: Wish[] = [];

  constructor(sharing: Sharing, sink: Sink, scope: Scope) {
    this.device = sharing.device;
    this.#sharing = sharing;
    this.#sink = sink;
    this.#scope = scope;
    this.#recall();
    scope.events?.addEventListener('pagehide', this.#onhide);
    scope.events?.addEventListener('pageshow', this.#onshow);
    this.#enter();
  }

  /** Whether this tab holds the connection. */
  get leads(): boolean {
    return this.#leader !== undefined;
  }

  // ---- Link

  want(topics: readonly string[]): Promise<void> {
    this.#topics = topics;
    const want = ++this.#want;
    if (this.#term) this.#tell({ t: 'want', topics, want }); // else it joins with them
    const served = new Promise<void>((resolve, reject) => this.#wishes.push({ want, resolve, reject }));
    served.catch(() => {}); // whoever does not wait for it need not care
    return served;
  }

  ack(to: Address, seq: number): void {
    raise(this.#acked, { [to]: seq });
    if (!this.#unsaid.size) queueMicrotask(() => this.#flush());
    this.#unsaid.add(to);
  }

  close(): void {
    this.#leave();
    this.#end({ state: 'closed', code: 1000, reason: 'close' });
  }

  // flush remembers what was acknowledged and tells the leader, in this order.
  #flush(): void {
    if (!this.#unsaid.size) return;
    const acked = Object.fromEntries([...this.#unsaid].map((to) => [to, this.#acked.get(to)!]));
    this.#unsaid.clear();
    this.#remember();
    this.#tell({ t: 'acks', series: this.#series, acked });
  }

  // ---- what the leader says

  #hear(order: Order): void {
    if (this.#closed || (order.tab && order.tab !== this.#id)) return;
    if (order.term < this.#term) {
      if (order.t === 'lead') this.#join(); // it does not know that there was a later one
      return;
    }
    this.#heard = true;
    this.#missed = 0;
    if (order.term > this.#term || order.t === 'lead') {
      this.#term = order.term;
      if (this.#leader && this.#leader.term < order.term) this.#yield();
      return this.#join();
    }
    switch (order.t) {
      case 'begin':
        return this.#begin(order.series, order.cursors);
      case 'items':
        return this.#take(order.items);
      case 'status':
        return this.#status(order.status);
      case 'error':
        return this.#sink.error(this.#unpack(order.error));
      case 'served':
        return this.#served(order.want);
      case 'ask':
        return this.#tell({ t: 'here' });
      // What this version does not know is left alone: another tab may have a newer one.
    }
  }

  #join(): void {
    this.#flush();
    this.#joined = false;
    this.#got.clear();
    const [term, series, topics, want] = [this.#term, this.#series, this.#topics, this.#want];
    this.#tell({ t: 'join', term, series, acked: Object.fromEntries(this.#acked), topics, want });
  }

  #begin(series: string, cursors: Cursors): void {
    if (series !== this.#series) {
      this.#series = series;
      for (const map of [this.#acked, this.#got, this.#recent, this.#unsaid]) map.clear();
    }
    this.#joined = true;
    const mine: Record<Address, number> = {};
    const got = new Map<Address, number>();
    for (const [to, at] of Object.entries(cursors)) {
      if (!has(this.#topics, to)) continue;
      const acked = this.#acked.get(to) ?? at;
      this.#acked.set(to, acked);
      got.set(to, Math.max(acked, this.#got.get(to) ?? 0));
      mine[to] = acked;
    }
    this.#got = got;
    this.#remember();
    this.#sink.begin(series, mine);
  }

  #take(items: readonly Item[]): void {
    if (!this.#joined) return;
    const mine: Item[] = [];
    for (const item of items) {
      this.#keep(item);
      const got = this.#got.get(item.to);
      if (got === undefined) continue;
      if (item.first > got + 1) return this.#join(); // something was lost on the way: again, from what was settled
      this.#got.set(item.to, Math.max(got, item.last));
      mine.push(item);
    }
    if (mine.length) this.#sink.take(mine);
  }

  // keep remembers an item for those that missed it. Items without a hole, or none.
  #keep(item: Item): void {
    if (!item.last) return;
    const size = (it: Item) => (it.msg?.text ?? it.msg?.data64 ?? '').length;
    let recent = this.#recent.get(item.to);
    const last = recent?.items.at(-1)?.last ?? 0;
    if (recent && item.last <= last) return;
    if (!recent || item.first > last + 1) this.#recent.set(item.to, (recent = { items: [], size: 0 }));
    recent.items.push(item);
    recent.size += size(item);
    while (recent.items.length > RECENT_ITEMS || recent.size > RECENT_SIZE) recent.size -= size(recent.items.shift()!);
  }

  #served(want: number): void {
    const done = this.#wishes.filter((wish) => wish.want <= want);
    this.#wishes = this.#wishes.filter((wish) => wish.want > want);
    for (const wish of done) wish.resolve();
  }

  #status(status: Status): void {
    if (status.state !== 'closed') {
      const now = { ...status, leads: this.leads };
      const text = JSON.stringify(now);
      if (text !== this.#told) this.#sink.status(now); // else it is told once more because this tab has joined
      this.#told = text;
      return;
    }
    this.#end(status);
    // The lock to lead is kept for a moment: another tab that got it now might try again before it has heard.
    setTimeout(() => this.#leave(), 1_000);
  }

  #end(status: Status): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue.abort();
    this.#scope.events?.removeEventListener('pagehide', this.#onhide);
    this.#scope.events?.removeEventListener('pageshow', this.#onshow);
    const why = new this.#sharing.core.WeftError(status.reason ?? 'closed', 'the connection was closed for good', false, undefined, status.code);
    for (const wish of this.#wishes) wish.reject(why);
    this.#sink.status(status);
  }

  #unpack({ name, message, code, retry, field, close }: any): Error {
    if (name === 'WeftError') return new this.#sharing.core.WeftError(code, message, retry, field, close);
    return Object.assign(new Error(message), { name });
  }

  // ---- leading

  // compete waits for the lock to lead, or takes it from a leader that does not answer; and again whenever it is lost.
  #compete(steal = false): void {
    this.#queue.abort();
    const { signal } = (this.#queue = new AbortController());
    let over = false;
    const lead = () =>
      new Promise<void>((release) => {
        if (signal.aborted || over) return release();
        this.#unseat = release;
        this.#lead();
      });
    const again = () => {
      over = true;
      if (signal.aborted) return;
      this.#yield();
      setTimeout(() => signal.aborted || this.#compete(), AGAIN);
    };
    void this.#scope.locks.request(this.#sharing.name, steal ? { steal } : { signal }, lead).then(again, again);
  }

  #lead(): void {
    const { name, open } = this.#sharing;
    const { locks } = this.#scope;
    const seat: Seat = {
      id: this.#id,
      open,
      say: (order) => {
        if (order.tab !== this.#id) this.#channel?.postMessage(order);
        this.#hear(order);
      },
      recent: (to) => this.#recent.get(to)?.items ?? [],
      others: async () => {
        const { held = [] } = await locks.query();
        const ids = held.map((lock) => lock.name!).filter((held) => held.startsWith(`${name} `));
        return ids.map((held) => held.slice(name.length + 1)).filter((id) => id !== this.#id);
      },
      watch: (tab, gone) => {
        const ended = new AbortController();
        locks.request(`${name} ${tab}`, { signal: ended.signal }, gone).catch(() => {}); // it was ended
        return () => ended.abort();
      },
    };
    this.#term = after(this.#term);
    this.#leader = new Leader(this.#term, seat);
    this.#leader.start();
  }

  #yield(): void {
    this.#leader?.close();
    this.#leader = undefined;
    this.#unseat();
  }

  #tick(): void {
    if (this.#leader) return this.#leader.tick();
    if (this.#heard) {
      this.#heard = false;
      this.#missed = 0;
    } else if (++this.#missed <= MISSES) {
      this.#tell({ t: 'ask' });
    } else {
      this.#missed = 0;
      this.#compete(true);
    }
  }

  // ---- coming and going

  #enter(): void {
    if (this.#channel || this.#closed) return;
    const { signal } = (this.#away = new AbortController());
    this.#channel = new this.#scope.BroadcastChannel(this.#sharing.name);
    this.#channel.onmessage = ({ data }) => ('from' in data ? this.#leader?.hear(data) : this.#hear(data));
    this.#beat = setInterval(() => this.#tick(), BEAT);
    const here = () =>
      new Promise<void>((release) => {
        if (signal.aborted) return release();
        signal.addEventListener('abort', () => release());
        this.#tell({ t: 'call' });
        this.#compete();
      });
    this.#scope.locks.request(`${this.#sharing.name} ${this.#id}`, { signal }, here).catch(() => {}); // left before
  }

  #leave(): void {
    if (!this.#channel) return;
    this.#flush();
    this.#queue.abort();
    if (this.#leader) this.#yield();
    else this.#tell({ t: 'bye' });
    this.#joined = false;
    clearInterval(this.#beat);
    this.#channel.close();
    this.#channel = undefined;
    this.#away.abort();
  }

  // A page that may be shown again without being loaded must not hold others up meanwhile.
  #onhide = (event: Event) => {
    if ((event as PageTransitionEvent).persisted) this.#leave();
  };

  #onshow = (event: Event) => {
    if ((event as PageTransitionEvent).persisted) this.#enter();
  };

  #tell(report: Said): void {
    const said = { ...report, from: this.#id } as Report;
    if (this.#leader) this.#leader.hear(said);
    else this.#channel?.postMessage(said);
  }

  // ---- what outlives a reload

  #recall(): void {
    try {
      const { series, acked } = JSON.parse(this.#scope.session?.getItem(this.#sharing.name) ?? '{}');
      if (!series) return;
      this.#series = series;
      this.#acked = new Map(Object.entries(acked));
    } catch {
      // Storage is denied, or holds something else: this tab is new then.
    }
  }

  #remember(): void {
    try {
      const state = { series: this.#series, acked: Object.fromEntries(this.#acked) };
      this.#scope.session?.setItem(this.#sharing.name, JSON.stringify(state));
    } catch {
      // Storage is full or denied: after a reload this tab is new.
    }
  }
}

// A report before it says who reports.
type Said<T = Report> = T extends unknown ? Omit<T, 'from'> : never;
