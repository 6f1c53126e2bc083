// What crosses the wire, watched from beside the client: the node, where each mailbox stands, what came a second time. The
// client tells applications nothing of that, since they need none of it; a page that shows how Weft works does.
//
// Only the tab that holds the connection sees the wire. It tells the others over a channel, and each tab holds a lock for as
// long as it lives, so that all of them know how many share the connection.

const SOON = 100; // ms: what changed within is told together

export class Wire {
  facts = null; // {tab, turn, session, node, epoch, behind, boxes}: of the last welcome that any tab got; null before
  repeats = 0; // messages that came although this page, or the device before it, had them
  draining = false;
  #name;
  #id = crypto.getRandomValues(new Uint32Array(2)).join('-');
  #changed;
  #turns = 0; // counts the welcomes of this tab
  #own = ''; // the address of the user's own mailbox
  #seen = {}; // address → the highest sequence that came, to whichever tab, or that hello said was handled
  #channel = null;
  #tabs = new Set([this.#id]);
  #over = new AbortController();
  #timer = 0;

  // name is the same in all tabs of the device. changed is called with what is new: `welcome`, `behind` (with how many messages
  // wait for a mailbox that was added), `boxes` or `tabs`.
  constructor(name, changed) {
    this.#name = `weft-demo ${name}`;
    this.#changed = changed;
    if (navigator.locks) this.#join(); // else tabs share nothing either
  }

  get tabs() {
    return this.#tabs.size;
  }

  // leads says whether this tab holds the connection.
  get leads() {
    return this.facts?.tab === this.#id;
  }

  get mailboxes() {
    return Object.entries(this.facts?.boxes ?? {}).map(([ch, box]) => ({ ch, ...box }));
  }

  // waited says whether a message was there before the device was.
  waited(ch, seq) {
    return seq > 0 && seq <= this.facts?.boxes[ch]?.until;
  }

  // handed notes what this tab has been given, over this connection or another tab's.
  handed(ch, seq) {
    this.#seen[ch] = Math.max(this.#seen[ch] ?? 0, seq);
  }

  close() {
    clearTimeout(this.#timer);
    this.#over.abort();
    this.#channel?.close();
    this.#channel = null;
  }

  // WebSocket is the browser's, with this wire listening.
  get WebSocket() {
    const wire = this;
    return class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols);
        // Before the client's own handler: what it is given has been noted here.
        this.addEventListener('message', ({ data }) => wire.#heard(data));
      }

      send(text) {
        super.send(text);
        wire.#said(text);
      }
    };
  }

  // ---- this tab's connection

  #heard(text) {
    for (const line of text.split('\n')) if (line) this.#take(head(line));
    this.#tellSoon();
  }

  #take(object) {
    switch (object.t) {
      case 'welcome':
        return this.#welcome(object);
      case 'sub':
      case 'unsub':
        return this.#subscribed(object.mailboxes);
      case 'drain':
        this.draining = true;
        return;
      case 'msg':
        return object.live || this.#came(object.ch, object.seq, object.seq);
      case 'gap':
        return this.#came(object.ch, object.from, object.to);
    }
  }

  #welcome({ session, node, epoch, user, mailboxes }) {
    if (this.facts?.epoch !== epoch) this.#seen = this.facts ? {} : this.#seen;
    this.#own = `user:${user}`;
    this.draining = false;
    this.facts = { tab: this.#id, turn: `${this.#id} ${++this.#turns}`, session, node, epoch, behind: 0, boxes: {} };
    this.facts.behind = this.#enter(mailboxes);
    this.#tell();
    this.#changed('welcome');
  }

  #subscribed(mailboxes) {
    const { boxes } = this.facts;
    for (const ch of Object.keys(boxes)) if (!(ch in mailboxes)) delete boxes[ch];
    const fresh = Object.entries(mailboxes).filter(([ch]) => !(ch in boxes));
    const behind = this.#enter(Object.fromEntries(fresh));
    if (behind) this.#changed('behind', behind);
  }

  // enter takes up mailboxes where the server begins, and says how many messages they are behind.
  #enter(mailboxes) {
    let behind = 0;
    for (const [ch, { head, next }] of Object.entries(mailboxes)) {
      this.facts.boxes[ch] = { head, until: head, next, acked: next - 1 };
      behind += Math.max(0, head - Math.max(next - 1, this.#seen[ch] ?? 0));
    }
    return behind;
  }

  #came(ch = this.#own, from, to) {
    const box = this.facts?.boxes[ch];
    if (!box) return;
    if (to <= (this.#seen[ch] ?? 0)) this.repeats += to - from + 1;
    else this.#seen[ch] = to;
    box.next = Math.max(box.next, to + 1);
    box.head = Math.max(box.head, to);
  }

  #said(text) {
    for (const line of text.split('\n')) {
      const { t, ch = this.#own, seq, cursors } = JSON.parse(line);
      if (t === 'hello') for (const [to, at] of Object.entries(cursors)) this.#seen[to] = Math.max(this.#seen[to] ?? 0, at);
      const box = t === 'ack' && this.facts?.boxes[ch];
      if (box) box.acked = seq;
    }
    this.#tellSoon();
  }

  // ---- the other tabs

  #join() {
    const { signal } = this.#over;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#read(data);
    const here = () => {
      this.#say({ t: 'hello', tab: this.#id });
      return new Promise((left) => signal.addEventListener('abort', left));
    };
    navigator.locks.request(`${this.#name} ${this.#id}`, { signal }, here).catch(() => {}); // closed before
  }

  #read({ t, tab, facts }) {
    if (t === 'facts') {
      const news = facts.turn === this.facts?.turn ? 'boxes' : 'welcome';
      this.facts = facts;
      this.#changed(news);
      return;
    }
    if (this.#tabs.has(tab)) return;
    this.#tabs.add(tab);
    if (t === 'hello') this.#say({ t: 'here', tab: this.#id });
    if (t === 'hello' && this.leads) this.#tell();
    const gone = () => {
      this.#tabs.delete(tab);
      this.#changed('tabs');
    };
    navigator.locks.request(`${this.#name} ${tab}`, { signal: this.#over.signal }, gone).catch(() => {}); // this one went first
    this.#changed('tabs');
  }

  #say(words) {
    this.#channel?.postMessage(words);
  }

  #tell() {
    this.#say({ t: 'facts', facts: this.facts });
  }

  #tellSoon() {
    if (!this.leads) return;
    this.#changed('boxes');
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      if (this.leads) this.#tell();
    }, SOON);
  }
}

// head reads an object without its payload, which may be long and is the client's business.
function head(line) {
  const at = line.startsWith('{"t":"msg"') ? line.search(/,"data(64)?":/) : -1;
  return JSON.parse(at < 0 ? line : `${line.slice(0, at)}}`);
}
