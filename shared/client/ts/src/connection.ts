// One WebSocket after another, and the acknowledgements that go over them.

import { WeftError } from './errors.js';
import type { Address, Item, Link, Options, Sink, Socket, SocketConstructor, Store, TokenReason } from './types.js';
import { base64url, CLIENT, claims, decode, type FromServer, type Mailbox, PROTOCOL } from './wire.js';

const ACK_AFTER = 50; // ms: acknowledgements of this long travel together
const BACKOFF_LEAST = 250; // ms: the first pause is anything up to this
const BACKOFF_MOST = 30_000; // ms
const BUSY = 4; // as many losses as this counts that the server asked to back off
const FINE_AFTER = 5_000; // ms that a session must last for the next loss to count as the first
const TOKEN_EARLY = 60_000; // ms before it expires at which a token is replaced, but at most a tenth of its life
const PATIENCE = 10_000; // ms: for a token, then for the handshake, then for the welcome
const PROBE = 5_000; // ms for an answer after the page woke up or the network came back
const TIMER_MOST = 2 ** 31; // ms: what setTimeout can't count to

const FATAL = [4400, 4403, 4409, 4413]; // the close codes after which nothing is tried again
const PAGE = ['online', 'pagehide', 'visibilitychange'];
const TOPIC = 'topic:';

/** What is stored: how far a device has come in each mailbox. */
interface State {
  user: string; // whose cursors these are, by the last welcome
  epoch: string; // of the archive that numbered the messages
  cursors: Record<Address, number>;
}

/** A mailbox of the session: what comes next of it, and what the server was told. */
interface Lane {
  next: number;
  acked: number;
}

/** What a Connection is made of: options that have been checked. */
export interface Config {
  readonly urls: readonly string[];
  readonly token: Options['token'];
  readonly device: string;
  readonly store: Store | undefined;
  readonly WebSocket: SocketConstructor;
}

type Wish = readonly [resolve: () => void, reject: (error: Error) => void];

// What timers are for.
const WATCH = 0;
const RETRY = 1;
const ACK = 2;
const DRAIN = 3;
const AUTH = 4;
const TOPICS = 5;

/**
 * The one that talks to the server. It begins at once, in a microtask. Every method may be called at any time; nothing
 * comes to the sink from within one but the last status, from close.
 */
export class Connection implements Link {
  readonly device: string;
  readonly #config: Config;
  readonly #sink: Sink;
  #socket: Socket | null = null;
  #timers: (ReturnType<typeof setTimeout> | undefined)[] = [];
  #turn = 0; // counts attempts, so that what an earlier one waited for is dropped
  #at: number; // which URL is next, counting on
  #tries = 0; // since the last session that was fine
  #ended: WeftError | undefined;

  #store: Store | undefined; // until it fails
  #key = ''; // of the state in it
  #state: State = nothing();

  #token = ''; // empty when another one is needed
  #reason: TokenReason = 'connect'; // why the next one is needed
  #refused = false; // the last one was, and there was no welcome since

  #wanted: string[] = []; // topics
  #barred: string[] = []; // topics that the token does not allow any more
  #wishes: Wish[] = []; // that were not fulfilled yet

  // Of the present session:
  #lanes = new Map<Address, Lane>();
  #since = 0; // ms since 1970 of its welcome; 0 before
  #heartbeat = 0; // ms
  #asking = ''; // sub or unsub, until it is answered
  #said: WeftError | undefined; // the last error object

  constructor(config: Config, sink: Sink) {
    this.#config = config;
    this.#sink = sink;
    this.device = config.device;
    this.#at = (Math.random() * config.urls.length) | 0;
    this.#store = config.store;
    this.#watch('add');
    queueMicrotask(() => this.#open());
  }

  want(topics: readonly string[]): Promise<void> {
    const served = new Promise<void>((...wish) => this.#wishes.push(wish));
    this.#wanted = topics.filter((topic) => !this.#barred.includes(topic));
    this.#sync();
    return served;
  }

  ack(to: Address, seq: number): void {
    if (this.#ended || seq <= this.#cursor(to)) return;
    this.#state.cursors[to] = seq;
    this.#save();
    this.#flushSoon();
  }

  close(): void {
    if (!this.#ended) this.#stop(1000, 'close');
  }

  // ---- from one socket to the next

  async #open(): Promise<void> {
    if (this.#ended) return;
    this.#drop();
    const turn = this.#turn;
    const { urls, WebSocket } = this.#config;
    this.#sink.status({ state: 'connecting' });
    this.#wait();
    try {
      const token = await this.#fresh();
      if (turn !== this.#turn) return;
      const { tenant, sub } = claims(token);
      const key = 'weft:' + JSON.stringify([urls[0], tenant, sub, this.device]);
      if (key !== this.#key) {
        this.#key = key;
        this.#state = nothing();
        this.#sink.begin('', {});
        this.#stored((store) => Object.assign(this.#state, JSON.parse(store.getItem(key) || '{}')));
      }
      const socket = new WebSocket(urls[this.#at++ % urls.length]!, [PROTOCOL, 'weft.bearer.' + base64url(token)]);
      this.#socket = socket;
      socket.onopen = () => {
        const { epoch, cursors } = this.#state;
        this.#wait();
        this.#send({ t: 'hello', device: this.device, epoch, cursors, topics: this.#wanted, client: CLIENT });
      };
      socket.onerror = () => {}; // the close says it all, but Node's `ws` throws what nobody listens to
      socket.onmessage = ({ data }) => this.#read(data);
      socket.onclose = ({ code, reason }) => this.#lost(code, reason);
      this.#wait();
    } catch (error) {
      if (turn === this.#turn) this.#again(this.#tell(error));
    }
  }

  // fresh is the token of the moment, or another one where that will not do.
  async #fresh(): Promise<string> {
    const { token } = this.#config;
    return (this.#token ||= typeof token === 'string' ? token : await token(this.#reason));
  }

  // drop leaves the socket and everything that waits. The handlers go first: a dead path may take minutes to say that it
  // is closed, and by then it must not speak for its successor.
  #drop(): void {
    const socket = this.#socket;
    this.#flush();
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
    if (this.#since && Date.now() - this.#since >= FINE_AFTER) this.#tries = 0;
    this.#turn++;
    this.#lanes.clear();
    this.#since = 0;
    this.#asking = '';
    this.#said = undefined;
    if (!socket) return;
    this.#socket = socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
  }

  #lost(code: number, reason: string): void {
    let atOnce = false;
    if (code === 4401) {
      atOnce = !this.#refused;
      this.#token = '';
      this.#reason = atOnce ? 'expired' : 'rejected';
      this.#refused = true;
    } else if (reason === 'cursor_ahead') {
      atOnce = true;
      this.#state = nothing();
      this.#sink.begin('', {});
    } else if (FATAL.includes(code)) return this.#stop(code, reason);
    if (code === 4429) this.#tries += BUSY;
    // Browsers do not tell why a handshake was refused: it may have been for the token.
    if (!this.#since && this.#tries === 3) this.#token = '';
    this.#again(reason, code, atOnce);
  }

  // again connects after a random part of a limit that doubles when all nodes have failed; without a pause if the last session
  // was fine and there is no need for one.
  #again(reason: string, code?: number, atOnce = false): void {
    this.#drop();
    const limit = atOnce && !this.#tries ? 0 : BACKOFF_LEAST * 2 ** ((this.#tries / this.#config.urls.length) | 0);
    const pause = Math.random() * Math.min(limit, BACKOFF_MOST);
    this.#tries++;
    this.#set(RETRY, pause, () => this.#open());
    this.#sink.status({ state: 'waiting', retryAt: Date.now() + pause, code, reason });
  }

  #stop(code: number, reason: string): void {
    this.#ended = Object.assign(this.#said ?? new WeftError(reason, reason), { close: code });
    this.#drop();
    this.#watch('remove');
    this.#sync();
    this.#sink.status({ state: 'closed', code, reason });
  }

  #watch(what: 'add' | 'remove'): void {
    for (const event of PAGE) globalThis[`${what}EventListener`]?.(event, this.#page);
  }

  // page acknowledges before the page goes or sleeps; when it wakes, or the network is back, nothing waits any longer.
  #page = ({ type }: Event): void => {
    if (type === 'pagehide' || (type !== 'online' && document.hidden)) this.#flush();
    else if (this.#timers[RETRY]) this.#open();
    else if (this.#since) this.#probe(PROBE);
  };

  // ---- timers

  #set(what: number, ms: number, then: () => void): void {
    clearTimeout(this.#timers[what]);
    this.#timers[what] = setTimeout(() => {
      this.#timers[what] = undefined;
      then();
    }, ms);
  }

  #wait(ms = PATIENCE): void {
    this.#set(WATCH, ms, () => this.#again('silent'));
  }

  // alive is called when the server has said something. After a heartbeat of silence it is asked, after two it is given up.
  #alive(): void {
    if (this.#since) this.#set(WATCH, this.#heartbeat, () => this.#probe(this.#heartbeat));
  }

  // probe asks the server for a sign of life. Steps, not clocks, are what counts: a page that slept reads first what waits for it.
  #probe(ms: number): void {
    this.#send({ t: 'ping' });
    this.#wait(ms);
  }

  #send(...objects: object[]): void {
    if (this.#socket?.readyState === 1) this.#socket.send(objects.map((o) => JSON.stringify(o)).join('\n'));
  }

  // tell passes on what went wrong, and returns it in words.
  #tell(error: unknown): string {
    this.#sink.error(error as Error);
    return (error as Error).message;
  }

  // ---- the session

  #read(text: string): void {
    const socket = this.#socket;
    const items: Item[] = [];
    this.#alive();
    for (const line of text.split('\n')) {
      if (!line || this.#socket !== socket) break; // what we read made us leave
      const object = decode(line);
      if (object.t === 'msg' || object.t === 'gap') this.#place(object, items);
      else {
        this.#sink.take(items.splice(0));
        this.#control(object);
      }
    }
    this.#sink.take(items);
  }

  // place adds a message or a gap to items, if it is new. A jump means that something was lost on the way here.
  #place(object: FromServer, items: Item[]): void {
    const { ch: to = 'user:' + this.#state.user, seq = 0, from: first = seq, to: last = seq, why } = object;
    const lane = this.#lanes.get(to);
    if (last) {
      if (!lane) return; // still under way when we unsubscribed
      if (first > lane.next) return this.#again('hole');
      lane.next = Math.max(lane.next, last + 1);
      if (first <= this.#cursor(to)) this.#flushSoon();
      if (last <= this.#cursor(to) && why !== 'epoch') return;
    }
    items.push({ to, first, last, why, msg: object });
  }

  #control(object: FromServer): void {
    const { t, code, message, retry, field, within } = object;
    if (t === 'ping') this.#send({ t: 'pong' });
    else if (t === 'welcome') this.#welcome(object);
    else if (t.endsWith('sub')) this.#subscribed(object);
    else if (t === 'drain') this.#set(DRAIN, Math.random() * within, () => this.#again('draining', 4503, true));
    else if (t === 'error') {
      this.#tell((this.#said = new WeftError(code, message, retry, field)));
      if (!retry) return;
      this.#asking = ''; // it may have been the answer
      this.#set(TOPICS, PROBE, () => this.#sync());
    }
    // What this version does not know is left alone, so that servers can say more one day.
  }

  #welcome({ user, epoch, heartbeat, mailboxes }: FromServer): void {
    this.#since = Date.now();
    this.#heartbeat = heartbeat;
    this.#refused = false;
    this.#reason = 'connect';
    this.#alive();
    if (user !== this.#state.user || epoch !== this.#state.epoch) this.#state = nothing(user, epoch);
    this.#renewLater();
    this.#sink.status({ state: 'open' });
    this.#enter(mailboxes);
    this.#sync();
  }

  // enter takes up new mailboxes where the server begins, unless more of them has been handled: then what comes is dropped until
  // that is reached. The cursors of mailboxes that are not wanted any more are the server's to remember.
  #enter(mailboxes: Record<Address, Mailbox>): void {
    const begin: Record<Address, number> = {};
    for (const to in mailboxes) {
      const { next } = mailboxes[to]!;
      begin[to] = this.#cursor(to);
      if (this.#lanes.has(to)) continue;
      this.#lanes.set(to, { next, acked: next - 1 });
      begin[to] = Math.max(begin[to], next - 1);
    }
    this.#state.cursors = { ...begin };
    this.#save();
    this.#sink.begin(`${this.#state.user} ${this.#state.epoch}`, begin);
  }

  // renewLater hands the server a fresh token before this one expires. When none is to be had the session ends with it.
  #renewLater(): void {
    const old = this.#token;
    const left = claims(old).exp! * 1000 - Date.now(); // NaN when it does not say
    const ms = Math.max(left - TOKEN_EARLY, left * 0.9);
    const renew = async () => {
      const turn = this.#turn;
      this.#token = '';
      this.#reason = 'expired';
      try {
        const token = await this.#fresh();
        if (turn !== this.#turn || token === old) return;
        this.#send({ t: 'auth', token });
        this.#renewLater();
      } catch (error) {
        this.#tell(error);
      }
    };
    if (ms > 0 && ms < TIMER_MOST) this.#set(AUTH, ms, renew);
  }

  // ---- topics

  // sync tells the server what is wanted and what is not, one thing at a time, until it is as it should be.
  #sync(): void {
    if (this.#ended) for (const [, reject] of this.#wishes.splice(0)) reject(this.#ended);
    if (!this.#since || this.#asking) return;
    const have = [...this.#lanes.keys()].filter((to) => to.startsWith(TOPIC)).map(named);
    const fresh = this.#wanted.filter((topic) => !have.includes(topic));
    const left = have.filter((topic) => !this.#wanted.includes(topic));
    this.#flush();
    const change = fresh[0] ? fresh : left;
    if (change[0]) this.#send({ t: (this.#asking = fresh[0] ? 'sub' : 'unsub'), topics: change });
    else for (const [resolve] of this.#wishes.splice(0)) resolve();
  }

  // subscribed takes the answer to sub or unsub. An unsub that nobody asked for tells what a fresh token does not allow.
  #subscribed({ t, mailboxes }: FromServer): void {
    for (const to of this.#lanes.keys()) {
      if (to in mailboxes) continue;
      this.#lanes.delete(to);
      if (this.#asking === t) continue;
      this.#barred.push(named(to));
      this.#wanted = this.#wanted.filter((topic) => topic !== named(to));
      this.#tell(new WeftError('forbidden', to));
    }
    if (this.#asking === t) this.#asking = '';
    this.#enter(mailboxes);
    this.#sync();
  }

  // ---- cursors and acknowledgements

  #cursor(to: Address): number {
    return this.#state.cursors[to] ?? 0;
  }

  // save writes the cursors down. What is left in a store that failed would fall behind, and take the device back after a
  // reload.
  #save(): void {
    this.#stored((store) => {
      try {
        store.setItem(this.#key, JSON.stringify(this.#state));
      } catch (error) {
        store.removeItem!(this.#key);
        throw error;
      }
    });
  }

  // stored does something with the store. One that fails is not asked again.
  #stored(work: (store: Store) => unknown): void {
    try {
      if (this.#store) work(this.#store);
    } catch (error) {
      this.#store = undefined;
      this.#tell(error);
    }
  }

  #flushSoon(): void {
    if (!this.#timers[ACK]) this.#set(ACK, ACK_AFTER, () => this.#flush());
  }

  // flush acknowledges what has been handled, and nothing above what this session was sent, whatever an earlier one handled.
  #flush(): void {
    const acks = [];
    for (const [ch, lane] of this.#lanes) {
      const seq = Math.min(this.#cursor(ch), lane.next - 1);
      if (seq > lane.acked) acks.push({ t: 'ack', seq: (lane.acked = seq), ch });
    }
    if (acks[0]) this.#send(...acks);
  }
}

const nothing = (user = '', epoch = ''): State => ({ user, epoch, cursors: {} });

/** The name of a topic's address. */
const named = (to: Address) => to.slice(TOPIC.length);
