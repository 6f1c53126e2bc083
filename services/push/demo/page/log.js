// The log: what arrived, newest first. It builds at most one screenful of rows per frame however many messages come,
// and keeps the latest few hundred in the page; the counts beside it stay complete.

import { sha256 } from '/demo/record.js';
import * as text from '/demo/text.js';

const { el } = text;
const MOST = 300; // rows in the page
const CALM = 12; // more rows than this in one frame appear without the fade

export class Log {
  #list;
  #waiting = []; // functions that build a row, oldest first; at most MOST
  #frame = 0;
  total = 0;

  constructor(list) {
    this.#list = list;
  }

  message(message, arrived) {
    this.total++;
    this.#add(() => messageRow(message, arrived));
  }

  gap(gap, arrived) {
    this.#add(() => gapRow(gap, arrived));
  }

  // note is a line about the connection: kind is 'online', 'offline' or 'trouble'.
  note(kind, words, arrived) {
    this.#add(() => el('li', `note ${kind}`, el('span', '', words), el('time', '', text.time(arrived))));
  }

  clear() {
    this.#waiting = [];
    this.#list.replaceChildren();
    this.total = 0;
  }

  get shown() {
    return this.#list.querySelectorAll('.message').length;
  }

  // A hidden tab gets no frames, so what waits is bounded too: rows that would be pushed out at once are never built.
  #add(build) {
    this.#waiting.push(build);
    if (this.#waiting.length > 2 * MOST) this.#waiting.splice(0, this.#waiting.length - MOST);
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const rows = this.#waiting.slice(-MOST).map((build) => build());
    this.#waiting = [];
    if (rows.length <= CALM) for (const row of rows) row.classList.add('fresh');
    this.#list.prepend(...rows.reverse());
    while (this.#list.children.length > MOST) this.#list.lastElementChild.remove();
  }
}

function messageRow(message, arrived) {
  const { to, seq, type, at, again, caughtUp, live } = message;
  const details = el('details');
  const waited = caughtUp || again;
  const mark = again ? el('span', 'mark', 'sent again') : caughtUp ? el('span', 'mark', 'caught up') : null;
  const delay = el('span', 'delay', text.span(arrived - at));
  delay.title = waited ? 'From publishing to arrival: it waited for this device' : 'From publishing to arrival';
  details.append(
    el(
      'summary',
      '',
      el('span', 'seq', live ? 'live' : text.count(seq)),
      el('span', 'what', el('span', 'type', type || 'message'), mark),
      el('span', 'ch', to),
      delay,
      el('time', '', text.time(at)),
    ),
  );
  // The payload is laid out when somebody looks at it, and not before.
  details.addEventListener('toggle', () => details.append(payload(message, arrived)), { once: true });
  return el('li', `message thread-${text.thread(to)}${waited ? ' waited' : ''}`, details);
}

function payload({ id, at, contentType, traceparent, text: data, bytes }, arrived) {
  const raw = bytes ?? new TextEncoder().encode(data);
  const hash = el('code', '', '…');
  sha256(raw).then((hex) => (hash.textContent = hex || 'needs HTTPS or this machine'));
  const facts = el('dl');
  const fact = (name, value) => facts.append(el('div', '', el('dt', '', name), el('dd', '', value)));
  fact('id', el('code', '', id ?? '–'));
  fact('published', text.time(at));
  fact('arrived', text.time(arrived));
  fact('content', `${contentType}, ${text.size(raw.length)}`);
  if (traceparent) fact('trace', el('code', '', traceparent));
  fact('SHA-256', hash);
  const body = el('pre', '', ...text.json(data ?? new TextDecoder().decode(raw)));
  body.tabIndex = 0; // it scrolls, so the keyboard must be able to reach it
  return el('div', 'payload', facts, body);
}

function gapRow({ to, first, last, why }, arrived) {
  const range = first === last ? `No. ${text.count(first)}` : `No. ${text.count(first)} to ${text.count(last)}`;
  const words = el('span', '', el('strong', '', range), ` will not come: ${text.why(why)}.`);
  return el('li', `gap thread-${text.thread(to)}`, words, el('span', 'ch', to), el('time', '', text.time(arrived)));
}
