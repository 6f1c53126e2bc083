// What the drills work with: the fabric and how it is broken, a stream of messages, the drills' page and its tabs.

import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { setInterval } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Publisher } from './nats.mjs';

const EVERY = 10; // ms between two batches of a stream
const BATCH = 10; // messages: a stream brings some 1,000 a second, less on a busy machine
const MOST = 500; // messages that wait for their PubAcks at once

// Fabric is the running one: WEFT_MANIFEST names its manifest, and at WEFT_OPERATOR somebody does what is asked.
export class Fabric {
  kind = process.env.WEFT_KIND;
  #publisher;
  #up = Promise.resolve(); // pending while the fabric is down
  #started;

  get manifest() {
    return JSON.parse(readFileSync(process.env.WEFT_MANIFEST, 'utf8'));
  }

  // kill ends a push node by SIGKILL. With `weft dev` that is everything; start starts it again.
  async kill(push) {
    if (this.kind === 'dev') {
      this.#up = new Promise((resolve) => (this.#started = resolve));
      this.#publisher = undefined;
    }
    await this.#ask(`/kill?push=${push}`, 'POST');
  }

  // start returns when what was killed is there again.
  async start() {
    await this.#ask('/start', 'POST');
    this.#started?.();
    this.#started = undefined;
  }

  token(query) {
    return this.#ask(`/token?${query}`);
  }

  // place is {address: {head, next}}: where a device stands for the server. Its own connections are replaced.
  async place(user, device) {
    return JSON.parse(await this.#ask(`/place?${new URLSearchParams({ user, device })}`));
  }

  // publish publishes messages [{id, payload}] to an address, in order. Those that got no PubAck because the fabric
  // died are sent again when it is there.
  async publish(to, messages) {
    for (;;) {
      await this.#up;
      try {
        this.#publisher ??= Publisher.dial(this.manifest.nats);
        const publisher = await this.#publisher;
        const send = ({ id, payload }) => publisher.publish(to, payload, { 'Weft-Id': id, 'Weft-Type': 'drill' });
        return await Promise.all(messages.map(send));
      } catch (error) {
        if (!this.#started) throw error;
      }
    }
  }

  async close() {
    (await this.#publisher)?.close();
  }

  async #ask(path, method = 'GET') {
    const answer = await fetch(process.env.WEFT_OPERATOR + path, { method });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path}: ${text}`);
    return text;
  }
}

const numbered = (n) => ({ id: `n-${n}`, payload: `{"n":${n}}` });

// Stream sends a user the messages 1, 2, 3 … until it is ended.
export class Stream {
  #fabric;
  #to;
  #n = 0;
  #running;
  #over = new AbortController();

  constructor(fabric, user) {
    this.#fabric = fabric;
    this.#to = `user:${user}`;
  }

  begin() {
    this.#running = this.#run();
    this.#running.catch(() => {}); // end tells
  }

  // end returns how many there were.
  async end() {
    this.#over.abort();
    await this.#running;
    return this.#n;
  }

  // send sends so many more, as fast as it goes.
  async send(n) {
    while (n > 0) {
      const batch = Array.from({ length: Math.min(n, MOST) }, () => numbered(++this.#n));
      await this.#fabric.publish(this.#to, batch);
      n -= batch.length;
    }
  }

  async #run() {
    try {
      for await (const _ of setInterval(EVERY, undefined, { signal: this.#over.signal })) await this.send(BATCH);
    } catch (error) {
      if (error.name !== 'AbortError') throw error;
    }
  }
}

// Tab is the drills' page in a browser's tab.
export class Tab {
  errors = []; // what the page threw

  // asked is what drill.js reads.
  static async open(context, origin, asked) {
    const tab = new Tab();
    tab.page = await context.newPage();
    tab.page.on('pageerror', (error) => tab.errors.push(error.stack));
    await tab.page.goto(`${origin}/#${encodeURIComponent(JSON.stringify(asked))}`);
    await tab.is('open');
    return tab;
  }

  // until waits for something to be true in the page; what is given must survive JSON.
  until(condition, given, timeout = 60_000) {
    return this.page.waitForFunction(condition, given, { timeout, polling: 20 });
  }

  is(state) {
    return this.until((wanted) => globalThis.drill?.state() === wanted, state);
  }

  // has waits until so many messages are in the record of this tab. When one never comes, its reader tells which.
  async has(n) {
    await this.until((wanted) => drill.count >= wanted, n).catch((error) => {
      if (error.name !== 'TimeoutError') throw error;
    });
  }

  // acknowledged waits until this page has said that all up to seq is handled.
  acknowledged(to, seq) {
    return this.until(([address, wanted]) => drill.acked[address] >= wanted, [to, seq]);
  }

  async reload() {
    await this.page.reload();
    await this.is('open');
  }

  get(name) {
    return this.page.evaluate((member) => (typeof drill[member] === 'function' ? drill[member]() : drill[member]), name);
  }
}

const FILES = fileURLToPath(new URL('.', import.meta.url));
const CLIENT = fileURLToPath(new URL('../../../push/demo/page/', import.meta.url));
const TYPES = { html: 'text/html', js: 'text/javascript' };

// serve serves the drills' page, the client as the demo page has it, and tokens. Returns {origin, close}.
export async function serve(fabric) {
  const answer = async ({ url }) => {
    const [path, query] = url.split('?');
    if (path === '/token') return [await fabric.token(query), 'text/plain'];
    const name = path === '/' ? 'drill.html' : path.slice(1);
    if (!/^[\w-]+\.(html|js)$/.test(name)) throw new Error('no such file');
    return [await readFile((name.startsWith('drill') ? FILES : CLIENT) + name), TYPES[name.split('.')[1]]];
  };
  const server = createServer((request, response) => {
    answer(request).then(
      ([body, type]) => response.writeHead(200, { 'Content-Type': type, 'Cache-Control': 'no-store' }).end(body),
      (error) => response.writeHead(404).end(error.message),
    );
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { origin: `http://127.0.0.1:${server.address().port}`, close };
}
