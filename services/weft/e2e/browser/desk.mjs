// A push node that exists only inside the browser: Playwright hands it the page's requests and sockets. It serves the
// demo page from its folder and speaks weft.v1.json from memory, so that page tests are quick, need no fabric, and can
// make happen what a healthy fabric never does.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const PAGE = fileURLToPath(new URL('../../../push/demo/page/', import.meta.url));
const TYPES = { html: 'text/html', css: 'text/css', js: 'text/javascript', svg: 'image/svg+xml' };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:";

// Nothing listens here: every request is answered before it leaves the browser.
export const ORIGIN = 'http://localhost:1';

export class Desk {
  sessions = []; // {socket, user, device, addresses: Map(address → next)}, the open ones
  hellos = [];
  acks = [];
  #mailboxes = new Map(); // address → [object line], the first is sequence 1
  #cursors = new Map(); // device + address → sequence
  #waiters = [];
  tokens = true;
  reachable = true;

  async serve(context) {
    await context.route(`${ORIGIN}/**`, (route) => this.#answer(route));
    await context.routeWebSocket(/\/v1\/ws$/, (socket) => this.#accept(socket));
  }

  // publish appends a message to a mailbox and sends it to the sessions that hold it. at is ms since 1970.
  publish(ch, { type = 'note', data = '{}', base64, contentType, id, at = Date.now() } = {}) {
    const box = this.#box(ch);
    const seq = box.length + 1;
    const head = { t: 'msg', seq, id: id ?? `${ch}-${seq}`, type, at, content_type: contentType, ...(ch.startsWith('user:') ? {} : { ch }) };
    const payload = base64 === undefined ? `"data":${data}` : `"data64":"${base64}"`;
    box.push(`${JSON.stringify(head).slice(0, -1)},${payload}}`);
    this.#sendOut(ch);
  }

  // omit lets a number pass with a gap that says why.
  omit(ch, why) {
    const box = this.#box(ch);
    const seq = box.length + 1;
    box.push(JSON.stringify({ t: 'gap', ...(ch.startsWith('user:') ? {} : { ch }), from: seq, to: seq, why }));
    this.#sendOut(ch);
  }

  close(code, reason = '') {
    for (const session of this.sessions.splice(0)) session.socket.close({ code, reason });
  }

  // say sends a line to every session as it is, right or wrong.
  say(line) {
    for (const { socket } of this.sessions) socket.send(line);
  }

  // acked is fulfilled when a device has acknowledged an address up to seq.
  acked(device, ch, seq) {
    return new Promise((resolve) => {
      this.#waiters.push({ key: `${device} ${ch}`, seq, resolve });
      this.#wake();
    });
  }

  #wake() {
    this.#waiters = this.#waiters.filter(({ key, seq, resolve }) => {
      const done = (this.#cursors.get(key) ?? 0) >= seq;
      if (done) resolve();
      return !done;
    });
  }

  #box(ch) {
    if (!this.#mailboxes.has(ch)) this.#mailboxes.set(ch, []);
    return this.#mailboxes.get(ch);
  }

  async #answer(route) {
    const path = new URL(route.request().url()).pathname;
    if (path === '/demo/token') return this.#token(route);
    const name = path === '/demo' ? 'index.html' : path.slice('/demo/'.length);
    const body = await readFile(PAGE + name);
    await route.fulfill({ body, contentType: TYPES[name.split('.').pop()], headers: { 'Content-Security-Policy': POLICY } });
  }

  #token(route) {
    if (!this.tokens) return route.fulfill({ status: 404, body: 'no tokens here' });
    const { user } = route.request().postDataJSON();
    return route.fulfill({ json: { token: tokenFor(user), expires: Date.now() + 3_600_000 } });
  }

  #accept(socket) {
    if (!this.reachable) return socket.close({ code: 1013 });
    let session = null;
    socket.onMessage((text) => {
      for (const object of text.split('\n').map((line) => JSON.parse(line))) {
        if (object.t === 'hello') session = this.#welcome(socket, object);
        else this.#hear(session, object);
      }
    });
    socket.onClose(() => (this.sessions = this.sessions.filter((other) => other !== session)));
  }

  #welcome(socket, hello) {
    this.hellos.push(hello);
    const session = { socket, device: hello.device, addresses: new Map() };
    session.user = userOf(socket.protocols());
    const mine = [`user:${session.user}`, 'all', ...hello.topics.map((topic) => `topic:${topic}`)];
    for (const ch of mine) this.#enter(session, ch, hello.cursors[ch]);
    this.sessions.push(session);
    const mailboxes = this.#mailboxesOf(session);
    const names = { session: '01JDC7Q2VX', node: 'push-7f3k', epoch: '01JDBXN4E9' };
    socket.send(JSON.stringify({ t: 'welcome', ...names, user: session.user, device: hello.device, heartbeat: 20_000, mailboxes }));
    for (const ch of mine) this.#fill(session, ch);
    return session;
  }

  #enter(session, ch, cursor) {
    const start = ch.startsWith('user:') ? 0 : this.#box(ch).length;
    session.addresses.set(ch, (cursor ?? this.#cursors.get(`${session.device} ${ch}`) ?? start) + 1);
  }

  #mailboxesOf(session) {
    return Object.fromEntries([...session.addresses].map(([ch, next]) => [ch, { head: this.#box(ch).length, next }]));
  }

  #hear(session, { t, seq, ch = `user:${session.user}`, topics = [] }) {
    if (t === 'ack') {
      this.acks.push({ device: session.device, ch, seq });
      this.#cursors.set(`${session.device} ${ch}`, seq);
      return this.#wake();
    }
    for (const topic of topics.map((name) => `topic:${name}`)) {
      if (t === 'sub') this.#enter(session, topic);
      else session.addresses.delete(topic);
    }
    if (t === 'sub' || t === 'unsub') session.socket.send(JSON.stringify({ t, mailboxes: this.#mailboxesOf(session) }));
  }

  #sendOut(ch) {
    for (const session of this.sessions) if (session.addresses.has(ch)) this.#fill(session, ch);
  }

  #fill(session, ch) {
    const lines = this.#box(ch).slice(session.addresses.get(ch) - 1);
    if (lines.length) session.socket.send(lines.join('\n'));
    session.addresses.set(ch, this.#box(ch).length + 1);
  }
}

// userOf believes what the token in the second subprotocol says.
function userOf([protocol, bearer]) {
  if (protocol !== 'weft.v1.json' || !bearer.startsWith('weft.bearer.')) throw new Error(`subprotocols ${protocol}, ${bearer}`);
  const token = Buffer.from(bearer.slice('weft.bearer.'.length), 'base64url').toString();
  return JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString()).sub;
}

// tokenFor is a token that says who it is for and proves nothing.
export const tokenFor = (user) => ['{}', JSON.stringify({ sub: user }), ''].map((part) => Buffer.from(part).toString('base64url')).join('.');
