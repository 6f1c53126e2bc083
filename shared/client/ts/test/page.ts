// A page for tests: what a browser gives the client, and a client on a FakeServer that writes down what it is handed.

import { vi } from 'vitest';

import { connect } from '../src/index.js';
import { FakeServer, settled } from '../src/testing.js';
import type { Message, Options, Store, Weft } from '../src/types.js';

/** A localStorage. It throws whatever `broken` is. */
export class MemoryStore implements Store {
  readonly items = new Map<string, string>();
  broken: Error | undefined;

  getItem(key: string): string | null {
    if (this.broken) throw this.broken;
    return this.items.get(key) ?? null;
  }

  setItem(key: string, value: string): void {
    if (this.broken) throw this.broken;
    this.items.set(key, value);
  }

  removeItem(key: string): void {
    this.items.delete(key);
  }

  /** The cursors that are stored under the only key, or the one that names a user. */
  cursors(user = ''): Record<string, number> | undefined {
    const key = [...this.items.keys()].find((name) => name.startsWith('weft:[') && name.includes(user));
    return key === undefined ? undefined : JSON.parse(this.items.get(key)!).cursors;
  }
}

/** Replaces the globals of a browser; vi.unstubAllGlobals takes them away again. */
export function stubPage(local: Store = new MemoryStore()) {
  const events = new EventTarget();
  const document = { hidden: false };
  vi.stubGlobal('addEventListener', events.addEventListener.bind(events));
  vi.stubGlobal('removeEventListener', events.removeEventListener.bind(events));
  vi.stubGlobal('document', document);
  vi.stubGlobal('localStorage', local);
  vi.stubGlobal('sessionStorage', new MemoryStore());
  return {
    local,
    fire: (event: string) => events.dispatchEvent(new Event(event)),
    hide(hidden = true) {
      document.hidden = hidden;
      events.dispatchEvent(new Event('visibilitychange'));
    },
  };
}

/** Turns fake clocks and does what comes due. */
export async function turn(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
  await settled();
}

export interface Told {
  readonly what: string;
  readonly [member: string]: unknown;
}

export interface Client {
  readonly weft: Weft;
  readonly seen: Message[];
  /** status, gap, failed and error, in order. */
  readonly told: Told[];
  /** `address/sequence` of what was seen, without `user:alice/`. */
  readonly seqs: () => string[];
  readonly states: () => string[];
}

/** Connects to a server with a handler for everything, which returns what `handle` does. */
export async function client(server: FakeServer, options: Partial<Options> = {}, handle: (m: Message) => unknown = () => {}): Promise<Client> {
  const seen: Message[] = [];
  const told: Told[] = [];
  const weft = connect({ url: 'ws://fake', token: 'secret', device: 'laptop', WebSocket: server.WebSocket, shared: false, ...options });
  weft.on('*', (m) => {
    seen.push(m);
    return handle(m);
  });
  for (const event of ['status', 'gap', 'failed', 'error'] as const) {
    weft.listen(event, (what) => told.push({ what: event, ...(what instanceof Error ? { error: what } : what) }));
  }
  await settled();
  const seqs = () => seen.map(({ to, seq }) => (to === 'user:alice' ? `${seq}` : `${to}/${seq}`));
  return { weft, seen, told, seqs, states: () => told.filter(({ what }) => what === 'status').map(({ state }) => state as string) };
}

/** A promise that a test settles. */
export function gate(): { promise: Promise<void>; open: () => void; fail: (error: Error) => void } {
  let open!: () => void;
  let fail!: (error: Error) => void;
  const promise = new Promise<void>((yes, no) => {
    open = yes;
    fail = no;
  });
  return { promise, open, fail };
}

/** A token as auth gives them, unsigned: expires in so many ms. */
export function jwt(ms: number, claims: object = {}): string {
  const part = (value: object) => btoa(JSON.stringify(value)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
  return `${part({ alg: 'none' })}.${part({ sub: 'alice', exp: (Date.now() + ms) / 1000, ...claims })}.`;
}
