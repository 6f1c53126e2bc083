// The tab that leads: what stands between its Connection and all tabs, itself among them.

import { after, type Cursors, has, MISSES, type Order, type Report } from './tabs-words.js';
import type { Address, Item, Link, Sink, Status } from './types.js';

const REPLACED = 4409; // the close code
const DOUBT = 1_000; // ms

// A tab as the leader knows it.
interface Member {
  joined: boolean; // false: it is here and has not said how far it is
  topics: readonly string[];
  want: number;
  series: string;
  acked: Map<Address, number>; // in this series
  in: Set<Address>; // the mailboxes whose items it has been given up to `at`
  missed: number; // questions that it has left unanswered
  unwatch: () => void;
}

// An order before its term is added.
type Said<T = Order> = T extends unknown ? Omit<T, 'term'> : never;

/** What a Leader asks of its tab. */
export interface Seat {
  readonly id: string;
  open(sink: Sink): Link;
  /** Gives an order to all tabs, this one too; to this one before it returns. */
  say(order: Order): void;
  /** The items of a mailbox that this tab has had last, without a hole. */
  recent(to: Address): readonly Item[];
  /** The other tabs that live. */
  others(): Promise<readonly string[]>;
  /** Calls gone when a tab has gone. Returns a function that ends that. */
  watch(tab: string, gone: () => void): () => void;
}

export class Leader implements Sink {
  #connection: Link | undefined; // undefined until it has been opened
  #members = new Map<string, Member>();
  #seat: Seat;
  #series = '';
  #at = new Map<Address, number>(); // the last sequence that was said to all, of the mailboxes of this session
  #acked = new Map<Address, number>(); // what the connection was told
  #counted = false; // all tabs that were here when this one began to lead are members
  #status: Status = { state: 'connecting' };
  #doubt: ReturnType<typeof setTimeout> | undefined; // while it is not sure who has replaced the connection
  #over = false;

  constructor(
    public term: number,
    seat: Seat,
  ) {
    this.#seat = seat;
  }

  /** Begins to lead: opens the connection and calls the tabs. */
  start(): void {
    this.#connection = this.#seat.open(this);
    this.#say({ t: 'lead' });
    void this.#count();
  }

  /** Ends it: another tab leads, or this one goes. */
  close(): void {
    this.#over = true;
    clearTimeout(this.#doubt);
    this.#connection?.close();
    for (const member of this.#members.values()) member.unwatch();
  }

  // ---- what the connection says

  begin(series: string, cursors: Cursors): void {
    if (this.#over) return;
    if (series !== this.#series) {
      this.#series = series;
      this.#at.clear();
      this.#acked = new Map(Object.entries(cursors));
    }
    // What comes again after a reconnect is not new to anybody: `at` does not go back.
    this.#at = new Map(Object.entries(cursors).map(([to, seq]) => [to, Math.max(seq, this.#at.get(to) ?? 0)]));
    for (const [id, member] of this.#members) {
      for (const to of member.in) if (!this.#at.has(to)) member.in.delete(to);
      this.#admit(id, member);
    }
    this.#settle();
  }

  take(items: readonly Item[]): void {
    if (this.#over) return;
    for (const { to, last } of items) if (last > this.#at.get(to)!) this.#at.set(to, last);
    this.#say({ t: 'items', items });
  }

  status(status: Status): void {
    if (this.#over) return;
    if (status.code === REPLACED && status.state === 'closed' && !this.#doubt) {
      // Perhaps by the tab that has taken the lead, which is about to be heard of.
      this.#doubt = setTimeout(() => this.status(status), DOUBT);
      return;
    }
    this.#status = status;
    if (this.#connection) this.#say({ t: 'status', status }); // else the answer to each join says it
  }

  error(error: Error): void {
    if (!this.#over) this.#say({ t: 'error', error: pack(error) });
  }

  // ---- what tabs say

  hear(report: Report): void {
    const { from } = report;
    if (this.#over || this.#status.state === 'closed') return;
    if (report.t === 'bye') return this.#gone(from);
    if (report.t === 'join') return this.#join(from, report);
    const member = this.#members.get(from);
    if (!member?.joined) return this.#say({ t: 'lead', tab: from });
    member.missed = 0;
    if (report.t === 'ask') {
      this.#say({ t: 'here' });
    } else if (report.t === 'acks' && report.series === member.series) {
      raise(member.acked, report.acked);
      this.#settle(Object.keys(report.acked));
    } else if (report.t === 'want') {
      Object.assign(member, { topics: report.topics, want: report.want });
      this.#admit(from, member);
      this.#wish(from);
    }
  }

  /** Asks the tabs that are waited for whether they are there, and counts without those that have not said so for long. */
  tick(): void {
    let ask = false;
    for (const [id, member] of this.#members) {
      if (!this.#waits(member)) member.missed = 0;
      else if (++member.missed > MISSES) this.#gone(id);
      else ask = true;
    }
    if (ask) this.#say({ t: 'ask' });
  }

  #join(from: string, report: Report & { t: 'join' }): void {
    if (report.term > this.term) {
      // The tab has seen a later leader than this one knew of.
      this.term = after(report.term);
      for (const member of this.#members.values()) member.joined = false;
      return this.#say({ t: 'lead' });
    }
    if (report.term < this.term) return this.#say({ t: 'lead', tab: from });
    const { topics, want, series } = report;
    const member = this.#member(from);
    // What it does not know of yet may be under way to it.
    const acked = new Map(member.series === series || !series ? member.acked : []);
    raise(acked, report.acked);
    if (series) member.series = series;
    Object.assign(member, { joined: true, missed: 0, topics, want, acked, in: new Set() });
    this.#say({ t: 'status', tab: from, status: this.#status });
    this.#admit(from, member);
    this.#wish(from);
    this.#settle();
  }

  // member is the tab with an id; a new one has not joined.
  #member(id: string): Member {
    let member = this.#members.get(id);
    if (!member) {
      const unwatch = id === this.#seat.id ? () => {} : this.#seat.watch(id, () => this.#gone(id));
      member = { joined: false, topics: [], want: 0, series: '', acked: new Map(), in: new Set(), missed: 0, unwatch };
      this.#members.set(id, member);
    }
    return member;
  }

  #gone(id: string): void {
    const member = this.#members.get(id);
    if (!member || this.#over) return;
    member.unwatch();
    this.#members.delete(id);
    this.#wish();
    this.#settle();
  }

  // count finds out who is here. Until they have joined nothing is acknowledged: they may have what is not settled.
  async #count(): Promise<void> {
    const others = await this.#seat.others().catch(() => []);
    if (this.#over) return;
    for (const id of others) this.#member(id);
    this.#counted = true;
    this.#settle();
  }

  // ---- what they are given

  // admit tells a tab which mailboxes there are, and gives it what it has missed of those that are new to it.
  #admit(id: string, member: Member): void {
    if (!this.#series || !member.joined) return;
    if (member.series !== this.#series) Object.assign(member, { series: this.#series, acked: new Map(), in: new Set() });
    const missed: Item[] = [];
    for (const [to, at] of this.#at) {
      if (!has(member.topics, to)) {
        member.in.delete(to);
      } else if (!member.in.has(to)) {
        member.in.add(to);
        const acked = member.acked.get(to) ?? this.#start(to);
        member.acked.set(to, acked);
        missed.push(...this.#between(to, acked, at));
      }
    }
    this.#say({ t: 'begin', tab: id, series: this.#series, cursors: this.#starts() });
    if (missed.length) this.#say({ t: 'items', tab: id, items: missed });
  }

  // start is behind what a new tab begins: what has been said, or handled by some tab, before it came. After a change of
  // leaders that may be said once more.
  #start(to: Address): number {
    const handled = [...this.#members.values()].map((member) => member.acked.get(to) ?? 0);
    return Math.max(this.#at.get(to)!, this.#acked.get(to) ?? 0, ...handled);
  }

  #starts(): Cursors {
    return Object.fromEntries([...this.#at.keys()].map((to) => [to, this.#start(to)]));
  }

  // between is what is known of the sequences after one up to another; what is not is a gap.
  #between(to: Address, after: number, upTo: number): Item[] {
    const items: Item[] = [];
    let next = after + 1;
    const away = (last: number) => {
      if (last >= next) items.push({ to, first: next, last, why: 'away' });
    };
    if (next > upTo) return items;
    for (const item of this.#seat.recent(to)) {
      if (item.last < next || item.first > upTo) continue;
      away(item.first - 1);
      items.push(item);
      next = item.last + 1;
    }
    away(upTo);
    return items;
  }

  // wish subscribes to all that some tab wants. The tab that asked is told when it is so.
  #wish(tab?: string): void {
    const topics = new Set<string>();
    for (const member of this.#members.values()) for (const topic of member.topics) topics.add(topic);
    const want = tab && this.#members.get(tab)?.want;
    const served = () => {
      if (tab && want !== undefined && !this.#over) this.#say({ t: 'served', tab, want: want as number });
    };
    this.#connection?.want([...topics]).then(served, () => {}); // that it was closed is told by its status
  }

  // ---- what is acknowledged

  #settle(mailboxes: Iterable<Address> = this.#at.keys()): void {
    const members = [...this.#members.values()];
    if (!this.#counted || members.some((member) => !member.joined)) return;
    for (const to of mailboxes) {
      const acked = members.filter((member) => member.in.has(to)).map((member) => member.acked.get(to)!);
      const seq = Math.min(...acked);
      if (!acked.length || seq <= (this.#acked.get(to) ?? 0)) continue;
      this.#acked.set(to, seq);
      this.#connection?.ack(to, seq);
    }
  }

  // waits says whether the connection could acknowledge more, were it not for this tab.
  #waits(member: Member): boolean {
    return !member.joined || [...member.in].some((to) => member.acked.get(to)! < this.#at.get(to)!);
  }

  #say(order: Said): void {
    this.#seat.say({ term: this.term, ...order } as Order);
  }
}

/** Raises what a map has; what is lower already stays. */
export function raise(map: Map<Address, number>, to: Cursors): void {
  for (const [address, seq] of Object.entries(to)) map.set(address, Math.max(seq, map.get(address) ?? 0));
}

// An error loses its members on a BroadcastChannel, so that it travels as plain data.
function pack(error: Error): unknown {
  const { name, message } = error;
  return name === 'WeftError' ? { ...error, name, message } : { name, message };
}
