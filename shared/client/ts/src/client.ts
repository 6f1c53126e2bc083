// What connect() returns: handlers, their retries, and the loop.

import { messageOf } from './message.js';
import type { Address, Events, Item, Link, Message, Options, Sink, Status, Weft } from './types.js';

const RETRY_LEAST = 1_000; // ms until a handler that failed is called again, doubling
const RETRY_MOST = 16_000; // ms

type Listener = (what: any) => unknown;

/** What a page has of a mailbox. */
interface Box {
  seen: number; // everything up to here has been handed over, or waits for that
  open: Set<number>; // where the items of it begin that have not settled, in order
  turn: Promise<void>; // settles with the last item, where one waits for the other
}

/** A message that a loop has not asked for yet, and what counts it as handled. */
type Unread = readonly [message: Message, handled: () => void];

/** Implements Weft on a Link. */
export class Client implements Weft {
  status: Status = { state: 'connecting' };
  readonly #options: Options;
  #link?: Link;
  readonly #opened: Promise<Link>;
  #boxes = new Map<Address, Box>();
  #series = '';
  readonly #listeners = new Map<string, Set<Listener>>(); // by event; those of messages by a dot and their type, or *
  readonly #topics: Set<string>;
  readonly #unread: Unread[] = []; // what a loop that ended has left

  constructor(options: Options, open: (sink: Sink) => Link | Promise<Link>) {
    this.#options = options;
    this.#topics = new Set(options.topics);
    const opened = open({
      begin: (series, cursors) => this.#begin(series, cursors),
      take: (items) => items.forEach((item) => this.#take(item)),
      status: (status) => this.#emit('status', (this.status = status)),
      error: (error) => this.#emit('error', error),
    });
    this.#opened = Promise.resolve(opened).then((link) => (this.#link = link));
    this.subscribe();
  }

  get device(): string {
    return this.#link?.device ?? '';
  }

  on(type: string, handler: (message: any) => unknown): () => void {
    return this.#add('.' + type, handler);
  }

  listen<E extends keyof Events>(event: E, listener: (what: Events[E]) => void): () => void {
    return this.#add(event, listener);
  }

  async *messages(): AsyncGenerator<Message, void> {
    const queue = this.#unread.splice(0);
    let wake = () => {};
    const read = (message: Message) =>
      new Promise<void>((handled) => {
        queue.push([message, handled]);
        wake();
      });
    const offs = [this.on('*', read), this.listen('status', () => wake())];
    try {
      while (!this.#closed) {
        const next = queue.shift();
        if (!next) await new Promise<void>((resolve) => (wake = resolve));
        else {
          try {
            yield next[0];
          } finally {
            next[1]();
          }
        }
      }
      if (this.status.code !== 1000) await this.subscribe(); // rejects with the reason
    } finally {
      this.#unread.push(...queue);
      for (const off of offs) off();
    }
  }

  subscribe(...topics: string[]): Promise<void> {
    for (const topic of topics) this.#topics.add(topic);
    const served = this.#opened.then((link) => link.want([...this.#topics]));
    served.catch(() => {}); // no fault when nobody waits for it
    return served;
  }

  unsubscribe(...topics: string[]): Promise<void> {
    for (const topic of topics) this.#topics.delete(topic);
    return this.subscribe();
  }

  close(): void {
    if (!this.#closed) this.status = { state: 'closed', code: 1000 };
    this.#opened.then((link) => link.close());
  }

  get #closed(): boolean {
    return this.status.state === 'closed';
  }

  // begin forgets what is void. Where the server knows of more than we do, what we hold has been settled elsewhere.
  #begin(series: string, cursors: Readonly<Record<Address, number>>): void {
    if (series !== this.#series) this.#boxes.clear();
    this.#series = series;
    for (const to in cursors) {
      const seen = cursors[to]!;
      if (!(seen <= this.#boxes.get(to)?.seen!)) this.#boxes.set(to, { seen, open: new Set(), turn: Promise.resolve() });
    }
  }

  // take hands an item over, unless that has been done, and acknowledges when everything before it has settled, too.
  #take(item: Item): void {
    const { to, last } = item;
    const box = this.#boxes.get(to);
    if (!last || item.why === 'epoch') return this.#hand(item, () => {});
    if (!box || last <= box.seen) return;
    const first = Math.max(item.first, box.seen + 1);
    const here = () => this.#boxes.get(to) === box;
    const hand = (settled?: () => void) => {
      if (!here()) return;
      this.#hand({ ...item, first }, () => {
        box.open.delete(first);
        settled?.();
        const [lowest = box.seen + 1] = box.open;
        if (lowest > first && here()) this.#link!.ack(to, lowest - 1);
      });
    };
    box.seen = last;
    box.open.add(first);
    if (this.#options.onError === 'stop') box.turn = box.turn.then(() => new Promise(hand));
    else hand();
  }

  #hand(item: Item, done: () => void): void {
    const { to, first, last, msg, why } = item;
    if (this.#closed) return; // it comes again
    if (why) {
      this.#emit('gap', { to, first, last, why });
      return done();
    }
    const handlers = [...this.#of('.' + (msg!.type ?? '')), ...this.#of('.*')];
    let open = handlers.length; // that have not settled
    let settled = false;
    const settle = () => {
      if (!settled) done();
      settled = true;
    };
    const message = messageOf(item, settle);
    // That a handler throws is no business of what called it.
    const call = (handler: Listener, wait: number) => {
      const handled = () => --open || this.#options.ack === 'manual' || settle();
      const failed = (error: unknown) => {
        if (settled || this.#closed) return;
        if (wait <= RETRY_MOST && last) return setTimeout(() => settled || call(handler, 2 * wait), wait);
        this.#emit('failed', { message, error });
        if (this.#options.onError !== 'stop') settle();
      };
      let result: any;
      try {
        result = handler(message);
      } catch (error) {
        return failed(error);
      }
      result?.then ? result.then(handled, failed) : handled();
    };
    if (!open) settle();
    for (const handler of handlers) call(handler, RETRY_LEAST);
  }

  // emit tells what happened; what goes wrong and is listened to by nobody is shown on the console.
  #emit<E extends keyof Events>(event: E, what: Events[E]): void {
    const listeners = this.#of(event);
    if (!listeners[0] && 'failed error'.includes(event)) console.error('weft', event, what);
    for (const listener of listeners) {
      try {
        listener(what);
      } catch (error) {
        console.error(error);
      }
    }
  }

  // add returns what takes a listener away; one that is called all the same does nothing any more.
  #add(name: string, call: Listener): () => void {
    let gone = false;
    const listener: Listener = (what) => gone || call(what);
    const list = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, list.add(listener));
    return () => {
      gone = true;
      list.delete(listener);
    };
  }

  #of(name: string): Listener[] {
    return [...(this.#listeners.get(name) ?? [])];
  }
}
