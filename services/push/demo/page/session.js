// Who this tab is: the user, the device and where its token comes from. A tab is a device, so that several tabs are
// several devices; it stays the same one when it is loaded again.

import { Refused } from '/demo/weft.js';

const KEY = 'weft:session';
const EARLY = 60_000; // ms before its end at which a token is no longer used for a new connection

// NoTokens says that this server gives out no tokens: the person has to bring one.
export class NoTokens extends Refused {}

// restore is the session of this tab: what the address brought along (#user=…&token=…&topics=a,b), else what the tab
// had before, else nobody.
export function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEY)) ?? { device: newDevice(), topics: [] };
  const given = new URLSearchParams(location.hash.slice(1));
  // The token leaves the address at once: it must not end up in a bookmark or a screenshot.
  if (location.hash) history.replaceState(null, '', location.pathname + location.search);
  const token = given.get('token');
  if (token) Object.assign(kept, { token, expires: 0, own: true, user: subjectOf(token) });
  if (given.get('user')) kept.user = given.get('user');
  if (given.get('device')) kept.device = given.get('device');
  if (given.has('topics')) kept.topics = topicsOf(given.get('topics'));
  return kept;
}

export function keep(session) {
  sessionStorage.setItem(KEY, JSON.stringify(session));
}

export function forget() {
  sessionStorage.removeItem(KEY);
}

export function newDevice() {
  const browser = /Firefox|Edg|Chrome|Safari/.exec(navigator.userAgent)?.[0] ?? 'Browser';
  const bytes = crypto.getRandomValues(new Uint8Array(3));
  return `${browser.toLowerCase()}-${Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')}`;
}

// topicsOf reads topics as people write them: separated by commas or spaces.
export const topicsOf = (text) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];

// tokenOf is the token source of a session. A token that the person brought is used until the server says that it has
// expired; one that this server gives out is fetched anew whenever there is doubt.
export async function tokenOf(session, refusal) {
  if (session.own) {
    if (refusal === 'expired') throw new Refused('The token has expired. Paste a new one.');
    return session.token;
  }
  if (refusal || !session.token || session.expires - Date.now() < EARLY) await fetchToken(session);
  return session.token;
}

async function fetchToken(session) {
  const answer = await fetch('/demo/token', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ user: session.user, topics: ['*'] }),
  }).catch(() => {
    throw new Error('The server can’t be reached.');
  });
  if (answer.status === 404) throw new NoTokens('This server gives out no tokens. Paste one.');
  if (!answer.ok) {
    const words = `No token: ${(await answer.text()).trim()}.`;
    throw answer.status < 500 ? new Refused(words) : new Error(words);
  }
  const { token, expires } = await answer.json(); // expires is in ms since 1970
  Object.assign(session, { token, expires });
  keep(session);
}

// subjectOf reads the user out of a token without verifying it: the server does that.
export function subjectOf(token) {
  try {
    const claims = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(claims), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)).sub ?? '';
  } catch {
    return '';
  }
}
