// The instruments: the connection and which tab holds it, the counts, the latency of what arrives live, and where each mailbox
// stands. They are drawn at most once per frame.

import * as text from '/demo/text.js';

const { el } = text;
const SAMPLES = 200; // latencies that the median and the 99th percentile are taken of
const BARS = 60; // latencies in the strip
const MARKS = 12; // tabs that are drawn

const WORDS = { offline: 'Offline', connecting: 'Connecting', online: 'Online', waiting: 'Waiting', stopped: 'Stopped' };

export class Panel {
  #find;
  #latencies = [];
  #frame = 0;
  #source;
  #online = ''; // what is said while online
  #countDown = 0;

  // source gives what to draw: {counts, gaps, mailboxes, tabs, leads, facts, topics, shown, total}; leave is called with a
  // topic to unsubscribe.
  constructor(root, source, leave) {
    this.#find = (id) => root.getElementById(id);
    this.#source = source;
    this.#find('mailboxes').addEventListener('click', (event) => {
      const topic = event.target.closest('button')?.dataset.topic;
      if (topic) leave(topic);
    });
  }

  latency(ms) {
    this.#latencies.push(Math.max(0, ms));
    if (this.#latencies.length > SAMPLES) this.#latencies.shift();
  }

  reset() {
    this.#latencies = [];
  }

  status({ state, words, retryAt }) {
    const pill = this.#find('state');
    pill.textContent = WORDS[state];
    document.documentElement.dataset.state = state;
    this.#find('reason').textContent = words;
    this.#online = state === 'online' ? words : '';
    const away = state === 'offline' || state === 'stopped';
    this.#find('switch').textContent = away ? 'Go online' : 'Go offline';
    this.#next(state === 'waiting' ? retryAt : 0, words);
  }

  // place says where this tab is connected to, which may change while it is online.
  place(words) {
    this.#online = words;
  }

  // next shows when the next try comes: in words, and as a line that fills.
  #next(retryAt, words) {
    const line = this.#find('retry');
    clearInterval(this.#countDown);
    line.hidden = !retryAt;
    if (!retryAt) return;
    const left = retryAt - Date.now();
    line.replaceChildren(el('i')); // a new one begins anew
    line.firstChild.style.animationDuration = `${Math.max(left, 0)}ms`;
    const tell = () => {
      const seconds = Math.ceil((retryAt - Date.now()) / 1_000);
      this.#find('reason').textContent = `${words} Next try ${seconds > 0 ? `in ${seconds} s` : 'now'}.`;
    };
    tell();
    this.#countDown = setInterval(tell, 1_000);
  }

  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#counts();
      this.#strip();
      this.#tabs();
      this.#mailboxes();
    });
  }

  #counts() {
    const { counts, shown, total } = this.#source();
    for (const [name, n] of Object.entries(counts)) {
      const output = this.#find(`count-${name}`);
      if (!output) continue;
      output.textContent = text.count(n);
      output.parentElement.classList.toggle('zero', n === 0);
    }
    this.#find('shown').textContent = total > shown ? `the latest ${text.count(shown)} of ${text.count(total)}` : text.plural(total, 'message');
    this.#find('empty').hidden = total > 0;
    if (this.#online) this.#find('reason').textContent = counts.behind ? `Catching up, ${text.count(counts.behind)} to go.` : this.#online;
  }

  #strip() {
    const sorted = this.#latencies.toSorted((a, b) => a - b);
    const at = (q) => (sorted.length ? text.span(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]) : '–');
    this.#find('median').textContent = at(0.5);
    this.#find('p99').textContent = at(0.99);
    const recent = this.#latencies.slice(-BARS);
    const most = Math.max(10, ...recent);
    // The newest stands at the right; a square root keeps the small ones visible beside an outlier.
    const bar = (ms, i) => {
      const height = Math.max(1, 28 * Math.sqrt(ms / most));
      return `M${(BARS - recent.length + i) * 4 + 2} 30v${-height.toFixed(1)}`;
    };
    this.#find('bars').setAttribute('d', recent.map(bar).join(''));
  }

  // tabs draws one mark for each tab that shares the connection. The one that holds it is filled; which of the others is
  // which, no tab needs to know.
  #tabs() {
    const { tabs, leads, facts } = this.#source();
    const place = this.#find('tabs');
    place.hidden = !facts;
    const marks = Array.from({ length: Math.min(tabs, MARKS) }, (_, i) => el('i', i ? '' : 'leader'));
    if (tabs > 1) marks[leads ? 0 : 1].classList.add('own');
    const words = tabs > 1 ? `${leads ? 'This' : 'Another'} tab connects for all ${tabs}.` : 'The only tab of this device.';
    const [row, said] = place.children;
    if (said.textContent === words) return;
    row.replaceChildren(...marks);
    said.textContent = words;
  }

  #mailboxes() {
    const { mailboxes, topics, gaps } = this.#source();
    const known = new Set(mailboxes.map(({ ch }) => ch));
    const asked = topics.map((topic) => `topic:${topic}`).filter((ch) => !known.has(ch));
    const rows = [...mailboxes, ...asked.map((ch) => ({ ch }))].sort((a, b) => rank(a.ch) - rank(b.ch));
    const list = this.#find('mailboxes');
    while (list.children.length > rows.length) list.lastElementChild.remove();
    rows.forEach((row, i) => {
      const item = list.children[i] ?? list.appendChild(mailboxItem());
      fill(item, row, gaps[row.ch]);
    });
  }
}

// One's own mailbox comes first, then what everybody gets, then the topics as they were joined.
const rank = (ch) => ({ user: 0, all: 1 })[ch.split(':')[0]] ?? 2;

function mailboxItem() {
  const leave = el('button', 'quiet', '×');
  leave.type = 'button';
  const meter = el('progress');
  return el('li', '', el('span', 'ch'), el('span', 'hole'), leave, meter, el('span', 'place'));
}

// fill writes one mailbox into its item. Elements are kept, so that the keyboard's focus stays where it is.
function fill(item, { ch, head, next, acked }, gaps) {
  const [name, hole, leave, meter, place] = item.children;
  item.className = `thread-${text.thread(ch)}`;
  name.textContent = ch;
  name.title = ch;
  hole.textContent = gaps ? `${text.count(gaps)} in gaps` : '';
  const topic = ch.startsWith('topic:') ? ch.slice('topic:'.length) : '';
  leave.hidden = !topic;
  leave.dataset.topic = topic;
  leave.setAttribute('aria-label', `Leave ${ch}`);
  leave.title = `Leave ${ch}`;
  meter.hidden = head === undefined;
  if (head === undefined) {
    place.textContent = 'waiting for the server';
    return;
  }
  meter.max = Math.max(1, head);
  meter.value = head ? acked : 1;
  meter.setAttribute('aria-label', `${ch}: acknowledged`);
  place.replaceChildren(pair('head', head), pair('next', next), pair('acknowledged', acked));
}

const pair = (name, n) => el('span', '', `${name} `, el('b', '', text.count(n)));
