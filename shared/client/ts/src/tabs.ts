// How the tabs of one user on one origin share a connection. One tab leads: it has the Connection and the store of cursors.
// All tabs, the leading one too, are alike otherwise: each has a Client with its handlers. A BroadcastChannel carries what
// they say to each other; a browser delivers what one tab says in the order in which it was said.
//
// - Each tab holds a lock of its own for as long as it lives, and waits for the lock to lead. Browsers release the locks
//   of a tab that is closed or crashes, so somebody leads again at once, and the leader knows who has gone.
// - A leader says `lead` with its term, which is higher than that of the leader before. Tabs answer `join`: what they have
//   acknowledged of each mailbox, and their topics. What is said in an earlier term is void.
// - `begin` is the answer to `join` and comes again with each session. Then come the `items` that this tab has missed, as far
//   back as the leader remembers them (a reloaded tab goes on where it was: it remembers its cursors in sessionStorage),
//   then what all tabs get. A tab that was never here begins with what comes next.
// - Tabs say `acks`. The leader acknowledges the lowest of what the tabs have that want the mailbox; never before all tabs
//   that were there when it began to lead have joined. A tab without a handler acknowledges at once.
// - After a change of leaders the server sends again what was not acknowledged; each tab drops what it has had. So only
//   those see a message that have not seen it, and it is acknowledged once all have settled it.
// - `want` says which topics a tab wants; the leader subscribes to all that some tab wants and answers `served`.
// - A tab that sees a jump joins again. What nobody can give it any more is a gap with why `away`.
// - A tab that lives but does not answer (frozen, in a debugger) holds acknowledgements back until it has left 3 questions
//   unanswered, 5 s apart (`ask`, `here`): 20 s at most; then it does not count until it speaks. Likewise a leader that does
//   not answer for 25 s loses the lock to one who asked. Browsers may stretch the 5 s of a hidden tab to a minute.

import type { Config } from './connection.js';
import type { Core } from './link.js';
import { type Scope, Tab } from './tabs-member.js';
import type { Link, Options, Sink } from './types.js';

const DEVICE = 'weft:device';
const TOKEN_MOST = 30_000; // ms for token(), and what a token has to be good for
const BACKOFF_LEAST = 250; // ms: the first pause is anything up to this
const BACKOFF_MOST = 30_000; // ms

type Source = Exclude<Options['token'], string>;

/** The link of a tab in a browser that has locks. With `shared: false` it is a connection of this tab alone. */
export function share(options: Options, config: Config, sink: Sink, core: Core, scope: Scope = browser()): Link {
  const opening = new Opening(config.device, sink, core);
  void open(options, config, opening, scope).then(
    (link) => opening.open(link),
    () => opening.open(core.connect(config, sink)), // the page may not use locks
  );
  return opening;
}

// open makes the link of an opening; nothing when that was closed.
async function open(options: Options, config: Config, opening: Opening, scope: Scope): Promise<Link | undefined> {
  const { sink, core } = opening;
  await scope.locks.query();
  if (options.shared === false) return options.device ? core.connect(config, sink) : own(options, config, opening, scope);
  const known = await identify(config.token, opening);
  if (!known) return undefined;
  if (!known.who) return own(options, config, opening, scope); // nobody can tell which tabs may see the same
  const name = 'weft:' + JSON.stringify([config.urls[0], known.who, config.device]);
  const { token } = known;
  return new Tab({ name, device: config.device, core, open: (leader) => core.connect({ ...config, token }, leader) }, sink, scope);
}

/** A link before it is known what it will be. */
class Opening implements Link {
  device: string;
  closed = false;
  #link: Link | undefined;
  #topics: readonly string[] | undefined;
  #wishes: { resolve(served: Promise<void>): void; reject(why: Error): void }[] = [];

  constructor(
    device: string,
    readonly sink: Sink,
    readonly core: Core,
  ) {
    this.device = device;
  }

  open(link: Link | undefined): void {
    if (!link) return;
    if (this.closed) return link.close();
    this.#link = link;
    this.device = link.device;
    if (!this.#topics) return;
    const served = link.want(this.#topics);
    for (const { resolve } of this.#wishes) resolve(served);
  }

  want(topics: readonly string[]): Promise<void> {
    if (this.#link) return this.#link.want(topics);
    this.#topics = topics;
    return new Promise((resolve, reject) => this.#wishes.push({ resolve, reject }));
  }

  ack(to: string, seq: number): void {
    this.#link?.ack(to, seq);
  }

  close(): void {
    if (this.#link) return this.#link.close();
    if (this.closed) return;
    this.closed = true;
    for (const { reject } of this.#wishes) reject(new this.core.WeftError('close', 'the connection was closed', false, undefined, 1000));
    this.sink.status({ state: 'closed', code: 1000, reason: 'close' });
  }
}

// own is a connection with a device that no other tab has: the one that this tab had before it was reloaded, unless this is a
// copy of a tab that lives.
async function own(options: Options, config: Config, opening: Opening, { locks, session }: Scope): Promise<Link | undefined> {
  let release = () => {};
  const hold = (device: string) =>
    new Promise<boolean>((held) => {
      void locks.request(`${DEVICE} ${device}`, { ifAvailable: true }, (lock) => {
        held(lock !== null);
        return lock && new Promise<void>((done) => (release = done));
      });
    });
  let device = session?.getItem(DEVICE);
  if (!device || !(await hold(device))) {
    device = crypto.randomUUID();
    session?.setItem(DEVICE, device);
    await hold(device);
  }
  if (opening.closed) return void release();
  const link = opening.core.connect({ ...config, device, store: options.store ?? session ?? config.store }, opening.sink);
  return {
    device,
    want: (topics) => link.want(topics),
    ack: (to, seq) => link.ack(to, seq),
    close: () => {
      link.close();
      release();
    },
  };
}

// identify asks for a token until there is one, and whose it is by its own words. It returns what the connection is to use if
// this tab leads; nothing when the opening was closed.
async function identify(source: Options['token'], opening: Opening): Promise<{ who: string; token: Options['token'] } | undefined> {
  const { sink, core } = opening;
  for (let tries = 0; !opening.closed; tries++) {
    try {
      const token = typeof source === 'string' ? source : await inTime(source('connect'));
      if (opening.closed) break;
      const { sub, tenant = 'default', exp = Infinity } = core.claims(token);
      return { who: sub ? `${tenant}/${sub}` : '', token: typeof source === 'string' ? source : once(token, exp, source) };
    } catch (error) {
      if (opening.closed) break;
      const pause = Math.random() * Math.min(BACKOFF_MOST, BACKOFF_LEAST * 2 ** tries);
      sink.error(error as Error);
      sink.status({ state: 'waiting', retryAt: Date.now() + pause, reason: (error as Error).message });
      await online(pause);
      if (!opening.closed) sink.status({ state: 'connecting' });
    }
  }
  return undefined;
}

// once gives out a token that is there already, if it is asked for in time.
function once(token: string, exp: number, source: Source): Source {
  let first = true;
  return (reason) => {
    const mine = first && reason === 'connect' && Date.now() + TOKEN_MOST < exp * 1000;
    first = false;
    return mine ? token : source(reason);
  };
}

function inTime(token: string | Promise<string>): Promise<string> {
  const late = new Promise<never>((_, fail) => setTimeout(() => fail(new Error('token() takes too long')), TOKEN_MOST));
  return Promise.race([token, late]);
}

// online waits some ms, or until the network is back.
function online(ms: number): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.('online', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    globalThis.addEventListener?.('online', done);
  });
}

// browser is the scope of this page. What it may not use is left out.
function browser(): Scope {
  let session: Storage | undefined;
  try {
    session = globalThis.sessionStorage;
  } catch {
    // Cookies are off.
  }
  return { locks: navigator.locks, BroadcastChannel, session, events: globalThis };
}
