// Who this tab is: the user, the device and where its token comes from. The tabs of a browser are one device, unless a tab
// names another one; a tab that is loaded again is who it was.

const KEY = 'weft-demo:session';
const DEVICE = 'weft-demo:device';

// Refused says that trying again can't help.
export class Refused extends Error {}

// NoTokens says that this server gives out no tokens: the person has to bring one.
export class NoTokens extends Refused {}

// restore is the session of this tab: what the address brought along (#user=…&token=…&topics=a,b), else what the tab
// had before, else nobody.
export function restore() {
  const kept = { device: browserDevice(), topics: [], ...JSON.parse(sessionStorage.getItem(KEY)) };
  const given = new URLSearchParams(location.hash.slice(1));
  // The token leaves the address at once: it must not end up in a bookmark or a screenshot.
  if (location.hash) history.replaceState(null, '', location.pathname + location.search);
  const token = given.get('token');
  if (token) Object.assign(kept, { token, user: subjectOf(token) });
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

// browserDevice is the name that all tabs of this browser have, until one names another.
function browserDevice() {
  const known = localStorage.getItem(DEVICE);
  if (!known) localStorage.setItem(DEVICE, newDevice());
  return known ?? localStorage.getItem(DEVICE);
}

function newDevice() {
  const browser = /Firefox|Edg|Chrome|Safari/.exec(navigator.userAgent)?.[0] ?? 'Browser';
  const bytes = crypto.getRandomValues(new Uint8Array(3));
  return `${browser.toLowerCase()}-${Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')}`;
}

// topicsOf reads topics as people write them: separated by commas or spaces.
export const topicsOf = (text) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];

// fetchToken gets a token from this server, where it gives them out.
export async function fetchToken(user) {
  const answer = await fetch('/demo/token', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ user, topics: ['*'] }),
  }).catch(() => {
    throw new Error('The server can’t be reached.');
  });
  if (answer.status === 404) throw new NoTokens('This server gives out no tokens. Paste one.');
  if (!answer.ok) {
    const words = `No token: ${(await answer.text()).trim()}.`;
    throw answer.status < 500 ? new Refused(words) : new Error(words);
  }
  return (await answer.json()).token;
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
