// A client of the protocol weft.v1.json: one device of one user. It takes messages in order and once, says how far it
// has come, and comes back by itself when the connection is lost. It knows nothing of the page.
//
// What it relies on: sequences are dense in each mailbox, and no number is left out without a `gap` that says why. A
// number that is missing all the same means that something went wrong on the way, so the client connects anew and
// asks for what follows the last message it handled.

const PROTOCOL = 'weft.v1.json';
const BEARER = 'weft.bearer.';
const CLIENT = 'weft-demo/1';

const ACK_DELAY = 50; // ms: acknowledgements of this long travel together
const BACKOFF_FIRST = 500; // ms: the first wait is anything up to this
const BACKOFF_BUSY = 5_000; // ms: the same after the server asked to back off
const BACKOFF_MOST = 30_000; // ms
const STEADY = 10_000; // ms online after which the next loss counts as the first
const PATIENCE = 5_000; // ms: the heartbeat that is assumed until `welcome` tells the real one

// What a close code means, in words for a person. `fatal` codes are never retried by the client itself.
const CLOSES = {
  4400: { fatal: true, words: 'The server did not accept what this page sent.' },
  4401: { words: 'The token has expired or was revoked.' },
  4403: { fatal: true, words: 'The token does not allow this.' },
  4408: { words: 'The server found this page too slow or too quiet.' },
  4409: { fatal: true, words: 'Another tab or program connected as this device and took over. Two need two device names.' },
  4413: { fatal: true, words: 'Something this page sent was too large.' },
  4429: { words: 'The server is busy and asked to wait.' },
  4503: { words: 'The server node is shutting down.' },
  1006: { words: 'The connection broke.' },
};
const CLOSED = { words: 'The server closed the connection.' };
const UNREACHED = { words: 'The server can’t be reached, or refused the token.' };

// Refused is thrown by a token source when trying again can’t help.
export class Refused extends Error {}

export class Weft {
  #options;
  #on;
  #topics;
  #greeted = new Set(); // the topics that the last hello named
  #cursors; // {epoch, handled: {address: sequence}}: survives connections and, in storage, the page
  #boxes = new Map(); // address → {head, until, next, acked} of this session
  #own = ''; // the address of the user's own mailbox
  #socket = null;
  #turn = 0; // counts attempts, so that a late token of an earlier one is dropped
  #wanted = false;
  #welcomed = 0; // ms since 1970; 0 before `welcome`
  #heard = 0; // ms since 1970: the last sign of life
  #asked = false; // whether we pinged since then
  #heartbeat = PATIENCE;
  #attempt = 0;
  #said = null; // the last `error` object: a close code that follows it says less
  #refusal = ''; // why the last token did not do: '', 'expired' or 'unopened'
  #timers = {};

  // options: url, device, user, topics, token(refusal) → string or promise, storage (localStorage or like it), and for
  // tests Socket and random. on: status, welcome, subscribed, message, gap, repeat, acked, hole, problem; all are called in the
  // order of what arrived, and a message counts as handled when on.message has returned.
  constructor(options, on) {
    this.#options = { Socket: globalThis.WebSocket, random: Math.random, topics: [], ...options };
    this.#on = on;
    this.#topics = new Set(this.#options.topics);
    this.#cursors = this.#load();
  }

  get topics() {
    return [...this.#topics];
  }

  // mailboxes is where this session stands: {ch, head, next, acked} of each address.
  get mailboxes() {
    return [...this.#boxes].map(([ch, { head, next, acked }]) => ({ ch, head, next, acked }));
  }

  connect() {
    this.#wanted = true;
    if (!this.#socket) this.#open();
  }

  // disconnect acknowledges what was handled and stays away until connect.
  disconnect(words = 'You took this device offline.') {
    this.#wanted = false;
    this.#drop(1000);
    this.#attempt = 0;
    this.#on.status({ state: 'offline', words });
  }

  // nudge tries at once instead of later: the network came back, or the page was woken.
  nudge() {
    if (this.#timers.retry) this.#open();
    else this.#watch();
  }

  subscribe(topics) {
    for (const topic of topics) this.#topics.add(topic);
    if (this.#welcomed) this.#send({ t: 'sub', topics });
  }

  unsubscribe(topics) {
    this.#flush();
    for (const topic of topics) {
      this.#topics.delete(topic);
      this.#boxes.delete(`topic:${topic}`);
    }
    if (this.#welcomed) this.#send({ t: 'unsub', topics });
  }

  // ---- the connection

  async #open() {
    this.#drop();
    const turn = this.#turn;
    this.#on.status({ state: 'connecting', words: 'Connecting …' });
    let token;
    try {
      token = await this.#options.token(this.#refusal);
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error instanceof Refused) this.#stop(error.message);
      else this.#later(error.message);
      return;
    }
    if (turn !== this.#turn) return;
    const socket = new this.#options.Socket(this.#options.url, [PROTOCOL, BEARER + base64url(token)]);
    this.#socket = socket;
    this.#heard = Date.now();
    this.#asked = false;
    this.#timers.watch = setInterval(() => this.#watch(), 1_000);
    socket.onopen = () => this.#hello();
    socket.onmessage = ({ data }) => this.#read(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  // drop leaves the socket and everything that waits. The handlers go first: a dead path may take minutes to say that
  // it is closed, and by then it must not speak for its successor.
  #drop(code) {
    this.#flush();
    this.#turn++;
    clearInterval(this.#timers.watch);
    for (const name of ['retry', 'drain']) clearTimeout(this.#timers[name]);
    this.#timers = {};
    this.#welcomed = 0;
    this.#heartbeat = PATIENCE;
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }

  #lost(code, reason) {
    const close = this.#welcomed || code !== 1006 ? (CLOSES[code] ?? CLOSED) : UNREACHED;
    if (this.#welcomed && Date.now() - this.#welcomed > STEADY) this.#attempt = 0;
    if (code === 4401) this.#refusal = 'expired';
    else if (!this.#welcomed) this.#refusal = 'unopened';
    const why = this.#said && this.#said.code === reason ? this.#said.message : reason;
    const words = why ? `${close.words} (${why})` : close.words;
    if (close.fatal) this.#stop(words);
    else this.#later(words, code === 4429 ? BACKOFF_BUSY : BACKOFF_FIRST);
  }

  #stop(words) {
    this.#wanted = false;
    this.#drop();
    this.#on.status({ state: 'stopped', words });
  }

  // later waits for a random part of a doubling time: many devices that lost one node must not come back as one.
  #later(words, first = BACKOFF_FIRST) {
    this.#drop();
    if (!this.#wanted) return;
    const wait = this.#options.random() * Math.min(BACKOFF_MOST, first * 2 ** this.#attempt++);
    this.#timers.retry = setTimeout(() => this.#open(), wait);
    this.#on.status({ state: 'waiting', words, retryAt: Date.now() + wait });
  }

  // watch finds a path that died without a word: a beat that is a quarter late is asked for once, and after two the
  // path is given up.
  #watch() {
    if (!this.#socket) return;
    const quiet = Date.now() - this.#heard;
    if (quiet > 2 * this.#heartbeat) this.#later('Nothing was heard from the server for too long.');
    else if (quiet > 1.25 * this.#heartbeat && this.#welcomed && !this.#asked) {
      this.#asked = true;
      this.#send({ t: 'ping' });
    }
  }

  #send(...objects) {
    if (this.#socket?.readyState === 1) this.#socket.send(objects.map((o) => JSON.stringify(o)).join('\n'));
  }

  // ---- the session

  #hello() {
    const { epoch, handled } = this.#cursors;
    const mine = ['all', `user:${this.#options.user}`, ...this.topics.map((topic) => `topic:${topic}`)];
    const cursors = Object.fromEntries(mine.filter((ch) => handled[ch]).map((ch) => [ch, handled[ch]]));
    this.#greeted = new Set(this.#topics);
    this.#send({ t: 'hello', device: this.#options.device, epoch, cursors, topics: this.topics, client: CLIENT });
  }

  #read(text) {
    this.#heard = Date.now();
    this.#asked = false;
    const socket = this.#socket;
    for (const line of text.split('\n')) {
      if (line) this.#take(decode(line));
      if (this.#socket !== socket) return; // what we read made us leave
    }
  }

  #take(object) {
    switch (object.t) {
      case 'msg':
        return this.#message(object);
      case 'gap':
        return this.#gap(object);
      case 'ping':
        return this.#send({ t: 'pong' });
      case 'welcome':
        return this.#welcome(object);
      case 'sub':
      case 'unsub':
        return this.#subscribed(object.mailboxes);
      case 'drain':
        return this.#drain(object.within);
      case 'error':
        return this.#problem(object);
      // What this version does not know is left alone, so that servers can say more one day.
    }
  }

  #welcome(welcome) {
    this.#welcomed = Date.now();
    this.#heartbeat = welcome.heartbeat;
    this.#refusal = '';
    this.#own = `user:${welcome.user}`;
    if (welcome.epoch !== this.#cursors.epoch) this.#cursors = { epoch: welcome.epoch, handled: {} };
    this.#boxes.clear();
    const behind = this.#enter(Object.fromEntries(this.#wantedOf(welcome.mailboxes)));
    this.#catchUpOnTopics();
    this.#on.status({ state: 'online', words: `Connected to node ${welcome.node.slice(0, 6)}.` });
    this.#on.welcome({ ...welcome, behind });
  }

  // enter takes up mailboxes where the server begins and tells how many messages they are behind.
  #enter(mailboxes) {
    const { handled } = this.#cursors;
    let behind = 0;
    for (const [ch, { head, next }] of Object.entries(mailboxes)) {
      this.#boxes.set(ch, { head, until: head, next, acked: next - 1 });
      const known = handled[ch] ?? 0;
      // Above the head we can only know a mailbox that no longer is: keeping such a cursor would hide what comes.
      handled[ch] = known > head ? next - 1 : Math.max(known, next - 1);
      behind += Math.max(0, head - handled[ch]);
    }
    return behind;
  }

  #subscribed(mailboxes) {
    for (const ch of this.#boxes.keys()) if (!(ch in mailboxes)) this.#boxes.delete(ch);
    const fresh = this.#wantedOf(mailboxes).filter(([ch]) => !this.#boxes.has(ch));
    this.#on.subscribed({ behind: this.#enter(Object.fromEntries(fresh)) });
  }

  #wantedOf(mailboxes) {
    const wanted = (ch) => !ch.startsWith('topic:') || this.#topics.has(ch.slice('topic:'.length));
    return Object.entries(mailboxes).filter(([ch]) => wanted(ch));
  }

  // catchUpOnTopics says what was subscribed and unsubscribed between hello and welcome.
  #catchUpOnTopics() {
    const late = this.topics.filter((topic) => !this.#greeted.has(topic));
    const left = [...this.#greeted].filter((topic) => !this.#topics.has(topic));
    if (late.length) this.#send({ t: 'sub', topics: late });
    if (left.length) this.#send({ t: 'unsub', topics: left });
  }

  #message(object) {
    const ch = object.ch ?? this.#own;
    if (object.live) return this.#on.message({ ...object, ch });
    const box = this.#boxes.get(ch);
    if (!box) return; // still under way when we unsubscribed
    if (object.seq > box.next) return this.#hole(ch, box.next, object.seq);
    box.next = Math.max(box.next, object.seq + 1);
    box.head = Math.max(box.head, object.seq);
    if (object.seq <= this.#cursors.handled[ch] && !object.re) {
      this.#on.repeat({ ch, seq: object.seq });
    } else {
      this.#on.message({ ...object, ch, caughtUp: object.seq <= box.until });
      this.#handled(ch, object.seq);
    }
    this.#ackSoon();
  }

  #gap({ ch = this.#own, from, to, why }) {
    const box = this.#boxes.get(ch);
    if (!box) return;
    if (from > box.next) return this.#hole(ch, box.next, from);
    box.next = Math.max(box.next, to + 1);
    box.head = Math.max(box.head, to);
    if (to > this.#cursors.handled[ch] || why === 'epoch') this.#on.gap({ ch, from, to, why });
    this.#handled(ch, to);
    this.#ackSoon();
  }

  #handled(ch, seq) {
    const { handled } = this.#cursors;
    handled[ch] = Math.max(handled[ch], seq);
  }

  #hole(ch, expected, got) {
    this.#on.hole({ ch, expected, got });
    this.#later(`Message ${expected} of ${ch} is missing; asking for it again.`);
  }

  #drain(within) {
    this.#on.status({ state: 'online', words: 'This node is leaving; moving to another one.' });
    clearTimeout(this.#timers.drain);
    this.#timers.drain = setTimeout(() => this.#open(), this.#options.random() * within);
  }

  #problem(object) {
    if (object.code === 'cursor_ahead') this.#cursors.handled = {};
    this.#said = object;
    this.#on.problem(object);
  }

  // ---- acknowledgements

  #ackSoon() {
    this.#timers.ack ??= setTimeout(() => this.#flush(), ACK_DELAY);
  }

  // flush acknowledges what this session was sent, and no more: what an earlier one handled beyond that is above what
  // the server knows it sent, and would be a protocol error.
  #flush() {
    clearTimeout(this.#timers.ack);
    delete this.#timers.ack;
    const acks = [];
    for (const [ch, box] of this.#boxes) {
      const seq = box.next - 1;
      if (seq <= box.acked) continue;
      box.acked = seq;
      acks.push(ch === this.#own ? { t: 'ack', seq } : { t: 'ack', seq, ch });
    }
    if (!this.#own) return;
    this.#save();
    if (!acks.length) return;
    this.#send(...acks);
    this.#on.acked();
  }

  // ---- what survives the page

  get #key() {
    return `weft:cursors:${JSON.stringify([this.#options.user, this.#options.device])}`;
  }

  #load() {
    return JSON.parse(this.#options.storage.getItem(this.#key)) ?? { epoch: '', handled: {} };
  }

  #save() {
    this.#options.storage.setItem(this.#key, JSON.stringify(this.#cursors));
  }
}

// decode reads one object. The payload of a message is left as it was published: `text` is JSON cut out of the line,
// `bytes` what came as data64. Inside a JSON string a quote is escaped, so the mark can’t stand in an earlier member.
export function decode(line) {
  const mark = ',"data":';
  const at = line.startsWith('{"t":"msg"') ? line.indexOf(mark) : -1;
  if (at >= 0) return { ...JSON.parse(line.slice(0, at) + '}'), text: line.slice(at + mark.length, -1) };
  const { data64, ...object } = JSON.parse(line);
  if (data64 !== undefined) object.bytes = Uint8Array.from(atob(data64), (c) => c.charCodeAt(0));
  return object;
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}
