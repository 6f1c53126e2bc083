// How numbers, times and payloads are written for a person.

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const whole = new Intl.NumberFormat('en');

export const count = (n) => whole.format(n);

// time is a moment as hh:mm:ss.mmm.
export const time = (ms) => `${clock.format(ms)}.${String(ms % 1000).padStart(3, '0')}`;

// span is a duration in the unit that fits it.
export function span(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 86_400_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

export function size(bytes) {
  return bytes < 1_024 ? `${bytes} B` : `${(bytes / 1_024).toFixed(1)} KiB`;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// thread is the colour of an address, 0 to 7: the same in every place and every tab.
export function thread(ch) {
  let hash = 2166136261;
  for (let i = 0; i < ch.length; i++) hash = Math.imul(hash ^ ch.charCodeAt(i), 16777619);
  return (hash >>> 8) % 8;
}

const WHYS = {
  expired: 'expired before it could be delivered',
  superseded: 'replaced by a later message',
  deleted: 'deleted on request',
  quarantined: 'could not be processed',
  retention: 'older than the archive keeps',
  epoch: 'the archive was restored, and its numbering began anew',
  away: 'other tabs have had it while this one slept',
};

export const why = (code) => WHYS[code] ?? `the server says: ${code}`;

// What a close code means, for a person.
const CLOSES = {
  4400: 'The server did not accept what this page sent.',
  4401: 'The token has expired or was revoked.',
  4403: 'The token does not allow this.',
  4408: 'The server found this page too slow or too quiet.',
  4409: 'Another tab or program connected as this device and took over. Two need two device names.',
  4413: 'Something this page sent was too large.',
  4429: 'The server is busy and asked to wait.',
  4503: 'The server node is shutting down.',
};

const REASONS = {
  silent: 'Nothing was heard from the server for too long.',
  hole: 'A message was missing on the way; asking for it again.',
  draining: 'This node is leaving; moving to another one.',
};

// closing says why there is no connection. met: there has been one since the page was loaded.
export function closing({ state, code, reason }, met) {
  if (state === 'connecting') return 'Connecting …';
  if (CLOSES[code]) return reason ? `${CLOSES[code]} (${reason})` : CLOSES[code];
  if (code === 1006) return met ? 'The connection broke.' : 'The server can’t be reached, or refused the token.';
  if (code) return 'The server closed the connection.';
  return REASONS[reason] ?? reason ?? '';
}

// el makes an element: its class, its text or children.
export function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null));
  return element;
}

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

// json is a payload made readable: indented, and its parts told apart. What isn't JSON is shown as it is.
export function json(text) {
  let pretty;
  try {
    pretty = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return [text];
  }
  const parts = [];
  let last = 0;
  for (const match of pretty.matchAll(TOKEN)) {
    const [all, string, colon] = match;
    const word = colon ? string : all;
    parts.push(pretty.slice(last, match.index), el('span', colon ? 'key' : string ? 'string' : 'value', word));
    last = match.index + word.length;
  }
  parts.push(pretty.slice(last));
  return parts;
}
