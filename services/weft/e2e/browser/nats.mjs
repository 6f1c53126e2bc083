// Just enough of a NATS client to be any business system: it publishes with headers and waits for the PubAcks. The
// protocol is lines of text over TCP, so this takes no library; and it shows that nothing of ours is needed to publish.

import { connect } from 'node:net';
import { randomBytes } from 'node:crypto';

const UNANSWERED = 10_000; // ms that a PubAck may take

export class Publisher {
  #socket;
  #rest = Buffer.alloc(0);
  #inbox = `_INBOX.${randomBytes(12).toString('hex')}`;
  #waiting = new Map(); // reply subject → {resolve, reject, timer}
  #count = 0;
  #ready;

  // dial connects to a nats:// URL (credentials in it are used).
  static async dial(url) {
    const publisher = new Publisher();
    const { hostname, port, username, password } = new URL(url);
    publisher.#socket = connect(Number(port || 4222), hostname);
    const ready = new Promise((resolve, reject) => (publisher.#ready = { resolve, reject }));
    publisher.#socket.on('data', (data) => publisher.#read(data));
    publisher.#socket.on('error', (error) => publisher.#fail(error));
    publisher.#socket.on('close', () => publisher.#fail(new Error('the connection to NATS ended')));
    const login = username ? { user: decodeURIComponent(username), pass: decodeURIComponent(password) } : {};
    const options = { verbose: false, pedantic: false, headers: true, no_responders: true, lang: 'node', version: '1', ...login };
    publisher.#write(`CONNECT ${JSON.stringify(options)}\r\nSUB ${publisher.#inbox}.* 1\r\nPING\r\n`);
    await ready;
    return publisher;
  }

  // publish sends to the stream door of an address (`user:42`, `topic:news`, `all`) and returns the stream's PubAck.
  publish(to, payload, headers = {}) {
    const reply = `${this.#inbox}.${++this.#count}`;
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const head = Buffer.from(`NATS/1.0\r\n${lines.join('')}\r\n`);
    const body = Buffer.from(payload);
    const answer = new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#answer(reply, 'reject', new Error(`no PubAck for ${to}`)), UNANSWERED);
      this.#waiting.set(reply, { resolve, reject, timer });
    });
    const command = Buffer.from(`HPUB ${subjectOf(to)} ${reply} ${head.length} ${head.length + body.length}\r\n`);
    // In one piece: of two small writes the kernel holds the second back until the first is acknowledged, some 40 ms.
    this.#write(Buffer.concat([command, head, body, Buffer.from('\r\n')]));
    return answer;
  }

  close() {
    this.#socket.end();
  }

  #write(data) {
    this.#socket.write(data);
  }

  #read(data) {
    this.#rest = Buffer.concat([this.#rest, data]);
    for (;;) {
      const end = this.#rest.indexOf('\r\n');
      if (end < 0) return;
      const words = this.#rest.subarray(0, end).toString().split(' ');
      // MSG <subject> <sid> <size>, HMSG <subject> <sid> <size of headers> <size of all>; the payload follows.
      const follows = words[0] === 'MSG' || words[0] === 'HMSG' ? Number(words.at(-1)) : 0;
      const whole = end + 2 + (follows ? follows + 2 : 0);
      if (this.#rest.length < whole) return;
      const body = this.#rest.subarray(end + 2, end + 2 + follows);
      this.#rest = this.#rest.subarray(whole);
      this.#take(words, body);
    }
  }

  #take([verb, ...words], body) {
    if (verb === 'PING') this.#write('PONG\r\n');
    else if (verb === 'PONG') this.#ready.resolve();
    else if (verb === '-ERR') this.#fail(new Error(`NATS: ${words.join(' ')}`));
    else if (verb === 'HMSG') this.#answer(words[0], 'reject', new Error(`no stream takes it: ${body.toString().trim()}`));
    else if (verb === 'MSG') this.#acknowledged(words[0], JSON.parse(body));
  }

  #acknowledged(reply, ack) {
    if (ack.error) this.#answer(reply, 'reject', new Error(ack.error.description));
    else this.#answer(reply, 'resolve', ack);
  }

  #answer(reply, how, value) {
    const waiting = this.#waiting.get(reply);
    if (!waiting) return;
    this.#waiting.delete(reply);
    clearTimeout(waiting.timer);
    waiting[how](value);
  }

  #fail(error) {
    this.#ready.reject(error);
    for (const reply of [...this.#waiting.keys()]) this.#answer(reply, 'reject', error);
    this.#socket.destroy();
  }
}

// subjectOf is the stream door of an address in the default tenant. An id stands for itself if it is plain, else as `=`
// and its base64url.
export function subjectOf(to) {
  const [kind, ...rest] = to.split(':');
  if (kind === 'all') return 'weft.in.default.all';
  const id = rest.join(':');
  const token = /^[A-Za-z0-9_-]{1,64}$/.test(id) ? id : `=${Buffer.from(id).toString('base64url')}`;
  return `weft.in.default.${kind}.${token}`;
}
