// A push node in memory, for tests of what is built on this package.
//
//   const server = new FakeServer();
//   const weft = connect({ url: 'ws://fake', token: 'any', WebSocket: server.WebSocket });
//   weft.on('order.paid', show);
//   server.publish('order.paid', { total: 5 });
//   await settled();
//
// It keeps mailboxes and the cursors of devices as a real one does, sends what is above a cursor, ends a session that
// acknowledges what it was not sent, and does what it is told: be killed, fall silent, drain, refuse. It uses no timers, so
// fake ones can be used beside it; what it does to clients happens in microtasks, which settled() waits for.

import type { Address, Gap, Socket, SocketConstructor } from './types.js';

const PROTOCOL = 'weft.v1.json';
const BEARER = 'weft.bearer.';

export interface FakeServerOptions {
  /** Everybody who connects is this user; alice by default. */
  user?: string;
  /** Names the archive; another one voids all cursors. */
  epoch?: string;
  /** ms; 20,000 by default. */
  heartbeat?: number;
  /** How many messages a session is sent without having acknowledged one; 1,000 by default. */
  window?: number;
  /** Judges a token: what it returns is the close code that refuses it, 0 if it will do. Called with every hello and auth. */
  check?: (token: string) => number;
}

/** What can be said of a message besides type and payload. */
export interface Publishing {
  /** The mailbox; the user's own by default. */
  to?: Address;
  id?: string;
  contentType?: string;
  again?: boolean;
  traceparent?: string;
  /** Sent to whoever is there, without a sequence. */
  live?: boolean;
}

export interface Hello {
  readonly token: string;
  readonly device: string;
  readonly epoch: string;
  readonly cursors: Readonly<Record<Address, number>>;
  readonly topics: readonly string[];
  readonly client: string;
}

export interface Ack {
  readonly device: string;
  readonly to: Address;
  readonly seq: number;
}

interface Entry {
  readonly last: number;
  readonly line: string;
}

/** Waits until nothing is left to be done but what waits for a timer. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 100; i++) await Promise.resolve();
}

/** A push node in memory. */
export class FakeServer {
  /** To be given to connect(). */
  readonly WebSocket: SocketConstructor;
  /** All hellos, auths and acknowledgements so far, in order. */
  readonly hellos: Hello[] = [];
  readonly auths: string[] = [];
  readonly acks: Ack[] = [];
  /** All connections that were tried, the last one last. */
  readonly sessions: Session[] = [];
  readonly user: string;
  readonly heartbeat: number;
  window: number;
  epoch: string;
  check: (token: string) => number;
  /** Connections fail without a word while it is true. */
  down = false;
  /** Nothing is answered and nothing is sent while it is true. */
  silent = false;
  #mailboxes = new Map<Address, Entry[]>();
  #cursors = new Map<string, number>(); // by device and address

  constructor({ user = 'alice', epoch = 'e1', heartbeat = 20_000, window = 1_000, check = () => 0 }: FakeServerOptions = {}) {
    this.user = user;
    this.epoch = epoch;
    this.heartbeat = heartbeat;
    this.window = window;
    this.check = check;
    const server = this;
    this.WebSocket = class extends Session {
      constructor(url: string, protocols: string[]) {
        super(server, url, protocols);
      }
    };
  }

  /** The connection that was tried last. */
  get session(): Session {
    const session = this.sessions.at(-1);
    if (!session) throw new Error('nobody has connected');
    return session;
  }

  /** Whether somebody is welcome now. */
  get connected(): boolean {
    return this.sessions.some((session) => session.welcomed);
  }

  head(to: Address = `user:${this.user}`): number {
    return this.#mailboxes.get(to)?.at(-1)?.last ?? 0;
  }

  /** What a device has acknowledged of a mailbox, or the last device that said hello. */
  cursor(to: Address = `user:${this.user}`, device = this.hellos.at(-1)?.device): number {
    return this.#cursors.get(`${device} ${to}`) ?? 0;
  }

  /** Puts a message into a mailbox and returns its sequence. A Uint8Array travels as bytes, everything else as JSON. */
  publish(type: string, data: unknown, more: Publishing = {}): number {
    const { to = `user:${this.user}`, contentType, again, traceparent, live } = more;
    const seq = live ? undefined : this.head(to) + 1;
    const ch = to === `user:${this.user}` ? undefined : to;
    const id = more.id ?? `${to}/${seq ?? 'live'}`;
    const head = { t: 'msg', seq, id, type, at: Date.now(), ch, content_type: contentType, traceparent, re: again, live };
    const bytes = data instanceof Uint8Array;
    const payload = bytes ? `"data64":"${btoa(String.fromCharCode(...data))}"` : `"data":${JSON.stringify(data)}`;
    const line = `${JSON.stringify(head).slice(0, -1)},${payload}}`;
    if (seq) this.#append(to, { last: seq, line });
    else for (const session of this.sessions) if (session.welcomed) session.say(line);
    return seq ?? 0;
  }

  /** Puts a gap of so many messages into a mailbox. */
  gap(count: number, why: Gap['why'] = 'expired', to: Address = `user:${this.user}`): void {
    const from = this.head(to) + 1;
    const last = from + count - 1;
    const ch = to === `user:${this.user}` ? undefined : to;
    this.#append(to, { last, line: JSON.stringify({ t: 'gap', ch, from, to: last, why }) });
  }

  /** The object of the wire that holds a sequence, for sending it once more with session.say. */
  line(seq: number, to: Address = `user:${this.user}`): string {
    return this.#mailboxes.get(to)?.find(({ last }) => last >= seq)?.line ?? '';
  }

  /** Ends all connections without a word, as a process that dies does. */
  kill(): void {
    for (const session of this.sessions) session.end(1006);
  }

  /** Asks all clients to connect anew within so many ms. */
  drain(within: number): void {
    for (const session of this.sessions) if (session.welcomed) session.say({ t: 'drain', within });
  }

  /** Ends all connections with a close code. */
  close(code: number, reason = ''): void {
    for (const session of this.sessions) session.refuse(code, reason);
  }

  /** Loses all messages and cursors, as an archive that is restored from nothing; it has another epoch then. */
  restore(epoch: string): void {
    this.kill();
    this.epoch = epoch;
    this.#mailboxes.clear();
    this.#cursors.clear();
  }

  /** For sessions: what a device begins with, in each mailbox that it names. */
  place(hello: Hello, to: Address): number {
    const key = `${hello.device} ${to}`;
    const shared = to.startsWith('user:') ? this.#highest(to) : this.head(to);
    const known = this.#cursors.get(key) ?? shared;
    const claim = hello.epoch === this.epoch ? hello.cursors[to] : undefined;
    const cursor = claim ?? known;
    if (cursor <= this.head(to)) this.#cursors.set(key, Math.max(cursor, known));
    return cursor;
  }

  /** For sessions: what a mailbox holds above a sequence. */
  after(to: Address, seq: number): readonly Entry[] {
    const entries = this.#mailboxes.get(to) ?? [];
    let at = entries.length;
    while (at > 0 && entries[at - 1]!.last > seq) at--;
    return entries.slice(at);
  }

  /** For sessions: notes an acknowledgement. */
  acknowledged(ack: Ack): void {
    const key = `${ack.device} ${ack.to}`;
    this.acks.push(ack);
    this.#cursors.set(key, Math.max(ack.seq, this.#cursors.get(key) ?? 0));
  }

  #append(to: Address, entry: Entry): void {
    const entries = this.#mailboxes.get(to) ?? [];
    entries.push(entry);
    this.#mailboxes.set(to, entries);
    for (const session of this.sessions) session.pump();
  }

  // highest is what any device of the user has acknowledged.
  #highest(to: Address): number {
    return Math.max(0, ...[...this.#cursors].filter(([key]) => key.endsWith(` ${to}`)).map(([, seq]) => seq));
  }
}

interface Lane {
  next: number;
  acked: number;
}

/** A connection to a FakeServer, and the WebSocket that a client holds of it. */
export class Session implements Socket {
  onopen: Socket['onopen'] = null;
  onmessage: Socket['onmessage'] = null;
  onclose: Socket['onclose'] = null;
  onerror: Socket['onerror'] = null;
  readyState = 0;
  welcomed = false;
  /** What the client closed it with; undefined while it has not. */
  closed: number | undefined;
  /** All that the client has said. */
  readonly heard: any[] = [];
  readonly lanes = new Map<Address, Lane>();
  readonly #server: FakeServer;
  #token: string;
  #device = '';

  constructor(
    server: FakeServer,
    readonly url: string,
    readonly protocols: string[],
  ) {
    const bearer = protocols.find((name) => name.startsWith(BEARER)) ?? '';
    this.#server = server;
    this.#token = atob(bearer.slice(BEARER.length).replaceAll('-', '+').replaceAll('_', '/'));
    server.sessions.push(this);
    queueMicrotask(() => {
      if (server.down || protocols[0] !== PROTOCOL) return this.end(1006);
      if (this.readyState || server.silent) return;
      this.readyState = 1;
      this.onopen?.({});
    });
  }

  // ---- the client's side

  send(text: string): void {
    for (const line of text.split('\n')) this.#hear(JSON.parse(line));
  }

  close(code = 1000): void {
    this.closed ??= code;
    this.#leave();
  }

  // ---- the server's side

  /** Sends objects, or lines as they are, in one WebSocket message. */
  say(...objects: (object | string)[]): void {
    const data = objects.map((o) => (typeof o === 'string' ? o : JSON.stringify(o))).join('\n');
    queueMicrotask(() => {
      if (this.readyState === 1 && !this.#server.silent) this.onmessage?.({ data });
    });
  }

  /** Ends the connection. */
  end(code: number, reason = ''): void {
    if (this.readyState === 3) return;
    queueMicrotask(() => {
      if (this.readyState === 3) return;
      this.#leave();
      this.onclose?.({ code, reason });
    });
  }

  /** Tells why, then ends the connection. */
  refuse(code: number, reason: string, field?: string): void {
    this.say({ t: 'error', code: reason, message: `refused: ${reason}`, field });
    this.end(code, reason);
  }

  /** Sends what there is room for. */
  pump(): void {
    if (!this.welcomed || this.#server.silent) return;
    const lines: string[] = [];
    for (const [to, lane] of this.lanes) {
      for (const { last, line } of this.#server.after(to, lane.next - 1)) {
        if (last - lane.acked > this.#server.window && lane.next - 1 > lane.acked) break;
        lines.push(line);
        lane.next = last + 1;
      }
    }
    if (lines.length) this.say(...lines);
  }

  #leave(): void {
    this.readyState = 3;
    this.welcomed = false;
  }

  #hear(object: any): void {
    this.heard.push(object);
    if (this.#server.silent) return;
    if (object.t === 'hello') this.#greet(object);
    else if (object.t === 'ping') this.say({ t: 'pong' });
    else if (object.t === 'ack') this.#ack(object.ch ?? `user:${this.#server.user}`, object.seq);
    else if (object.t === 'sub' || object.t === 'unsub') this.#retopic(object);
    else if (object.t === 'auth') this.#renew(object.token);
  }

  #greet(object: any): void {
    const server = this.#server;
    const hello: Hello = { ...object, token: this.#token };
    server.hellos.push(hello);
    const refusal = server.check(this.#token);
    if (refusal) return this.refuse(refusal, refusal === 4401 ? 'token_expired' : 'refused');
    for (const to of [`user:${server.user}`, 'all', ...hello.topics.map((topic) => `topic:${topic}`)]) {
      const cursor = server.place(hello, to);
      if (cursor > server.head(to)) return this.refuse(4400, 'cursor_ahead', 'cursors');
      this.lanes.set(to, { next: cursor + 1, acked: cursor });
    }
    for (const other of server.sessions) if (other !== this && other.#device === hello.device) other.refuse(4409, 'replaced');
    this.#device = hello.device;
    this.welcomed = true;
    const { user, epoch, heartbeat } = server;
    const gaps = [...this.lanes].filter(([to, { acked }]) => hello.epoch && hello.epoch !== epoch && acked && to in hello.cursors);
    this.say(
      { t: 'welcome', session: 's', user, device: hello.device, node: 'fake', epoch, heartbeat, mailboxes: this.#mailboxes() },
      ...gaps.map(([ch, { acked }]) => ({ t: 'gap', ch, from: 1, to: acked, why: 'epoch' })),
    );
    this.pump();
  }

  #ack(to: Address, seq: number): void {
    const lane = this.lanes.get(to);
    if (!lane) return this.say({ t: 'error', code: 'not_subscribed', message: `no ${to}`, field: 'ch' });
    if (seq >= lane.next) return this.refuse(4400, 'ack_ahead', 'seq');
    if (seq <= lane.acked) return;
    lane.acked = seq;
    this.#server.acknowledged({ device: this.#device, to, seq });
    this.pump();
  }

  #retopic({ t, topics }: { t: string; topics: string[] }): void {
    const hello: Hello = { ...this.#server.hellos.at(-1)!, device: this.#device, epoch: '', cursors: {} };
    for (const to of topics.map((topic) => `topic:${topic}`)) {
      const cursor = this.#server.place({ ...hello, epoch: 'none' }, to);
      if (t === 'unsub') this.lanes.delete(to);
      else if (!this.lanes.has(to)) this.lanes.set(to, { next: cursor + 1, acked: cursor });
    }
    this.say({ t, mailboxes: this.#mailboxes() });
    this.pump();
  }

  #renew(token: string): void {
    this.#server.auths.push(token);
    const refusal = this.#server.check(token);
    if (refusal) this.refuse(refusal, 'unauthorized');
    else this.#token = token;
  }

  #mailboxes(): object {
    return Object.fromEntries([...this.lanes].map(([to, { next }]) => [to, { head: this.#server.head(to), next }]));
  }
}
