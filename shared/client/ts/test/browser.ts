// A browser with several tabs, as far as they can notice each other: locks, channels, what is stored, freezing and dying.

import type { Scope } from '../src/tabs-member.js';

interface Request {
  readonly name: string;
  readonly page: Page;
  readonly steal: boolean;
  grant(): void;
  reject(error: Error): void;
}

interface Held {
  readonly request: Request;
}

type Deliver = () => void;

/** One tab. Nothing that a killed one does reaches anybody; a frozen one does it when it thaws. */
export class Page {
  readonly session = new Map<string, string>();
  readonly browser: Browser;
  #alive = true;
  #late: Deliver[] | undefined; // what waits until it thaws

  constructor(browser: Browser) {
    this.browser = browser;
  }

  get alive(): boolean {
    return this.#alive;
  }

  get frozen(): boolean {
    return this.#late !== undefined;
  }

  /** Does something now, when it thaws, or never. */
  run(what: Deliver): void {
    if (!this.#alive) return;
    if (this.#late) this.#late.push(what);
    else what();
  }

  kill(): void {
    this.#alive = false;
    this.browser.forget(this);
  }

  freeze(): void {
    this.#late ??= [];
  }

  thaw(): void {
    const late = this.#late ?? [];
    this.#late = undefined;
    for (const what of late) this.run(what);
  }

  /** Runs make, whose intervals stand still while this page is frozen or dead. */
  open<T>(make: (scope: Scope) => T): T {
    const { setInterval } = globalThis;
    const page = this;
    globalThis.setInterval = ((then: () => void, ms: number) => setInterval(() => page.alive && !page.frozen && then(), ms)) as typeof setInterval;
    try {
      return make(this.scope());
    } finally {
      globalThis.setInterval = setInterval;
    }
  }

  scope(): Scope {
    const { browser, session } = this;
    const page = this;
    return {
      locks: {
        request: ((name: string, options: LockOptions, then: (lock: unknown) => unknown) => browser.request(page, name, options, then)) as LockManager['request'],
        query: async () => ({ held: [...browser.held.keys()].map((name) => ({ name })), pending: [] }),
      },
      BroadcastChannel: class {
        onmessage: ((event: any) => void) | null = null;
        readonly page = page;
        constructor(readonly name: string) {
          browser.channels.add(this);
        }
        postMessage(data: unknown): void {
          page.run(() => browser.post(this, data));
        }
        close(): void {
          browser.channels.delete(this);
        }
      },
      session: { getItem: (key) => session.get(key) ?? null, setItem: (key, value) => void session.set(key, value) },
    };
  }
}

interface Channel {
  readonly name: string;
  readonly page: Page;
  onmessage: ((event: any) => void) | null;
}

export class Browser {
  readonly held = new Map<string, Held>();
  readonly channels = new Set<Channel>();
  #waiting: Request[] = [];
  /** How long a message is under way from one tab to another, in ms. */
  latency = () => 1;
  /** Whether a message is lost on its way to a tab. */
  loses: (data: any, to: Page) => boolean = () => false;
  #arrival = new Map<Channel, number>();

  page(): Page {
    return new Page(this);
  }

  /** Gives a message to the other channels of this name, to each in the order in which they were posted. */
  post(from: Channel, data: unknown): void {
    for (const to of this.channels) {
      if (to === from || to.name !== from.name || this.loses(data, to.page)) continue;
      const copy = structuredClone(data);
      const at = Math.max(Date.now() + this.latency(), this.#arrival.get(to) ?? 0);
      this.#arrival.set(to, at);
      setTimeout(() => to.page.run(() => this.channels.has(to) && to.onmessage?.({ data: copy })), at - Date.now());
    }
  }

  request(page: Page, name: string, { signal, steal = false, ifAvailable = false }: LockOptions, then: (lock: unknown) => unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const request: Request = {
        name,
        page,
        steal,
        grant: () => page.run(() => void Promise.resolve(then({ name })).then(
          (value) => {
            if (this.held.get(name)?.request === request) this.#release(name);
            resolve(value);
          },
          reject,
        )),
        reject: (error) => page.run(() => reject(error)),
      };
      signal?.addEventListener('abort', () => {
        if (!this.#waiting.includes(request)) return;
        this.#waiting = this.#waiting.filter((it) => it !== request);
        reject(new DOMException('aborted', 'AbortError'));
      });
      page.run(() => {
        if (ifAvailable && this.held.has(name)) return void Promise.resolve(then(null)).then(resolve, reject);
        if (signal?.aborted) return reject(new DOMException('aborted', 'AbortError'));
        if (steal) {
          this.held.get(name)?.request.reject(new DOMException('stolen', 'AbortError'));
          this.held.delete(name);
          this.#waiting.unshift(request);
        } else {
          this.#waiting.push(request);
        }
        this.#grant(name);
      });
    });
  }

  forget(page: Page): void {
    for (const channel of this.channels) if (channel.page === page) this.channels.delete(channel);
    this.#waiting = this.#waiting.filter((it) => it.page !== page);
    for (const [name, { request }] of this.held) if (request.page === page) this.#release(name);
  }

  #release(name: string): void {
    this.held.delete(name);
    this.#grant(name);
  }

  #grant(name: string): void {
    if (this.held.has(name)) return;
    const request = this.#waiting.find((it) => it.name === name);
    if (!request) return;
    this.#waiting = this.#waiting.filter((it) => it !== request);
    this.held.set(name, { request });
    setTimeout(() => this.held.get(name)?.request === request && request.grant(), 0);
  }
}
