// What the page received, for tests and for curious people at the console: `weftDemo` on the window.

const MOST = 100_000; // records kept: a page left open over the weekend must not fill the memory

export class Record {
  messages = []; // {ch, seq, id, type, at, re, caughtUp, hash}, in the order of arrival
  gaps = []; // {ch, from, to, why}
  gapsOf = {}; // address → how many numbers will not come
  counts = { received: 0, live: 0, caughtUp: 0, again: 0, repeats: 0, gaps: 0, holes: 0, connects: 0, behind: 0 };
  #hashing = new Set();

  // message notes what arrived; its hash is filled in a moment later, and `settled` waits for it.
  message({ to, seq, id, type, at, again, caughtUp, text, bytes }) {
    const record = { ch: to, seq, id, type, at, re: again, caughtUp, hash: '' };
    this.messages.push(record);
    if (this.messages.length > MOST) this.messages.splice(0, MOST / 10);
    this.counts.received++;
    this.counts[again ? 'again' : caughtUp ? 'caughtUp' : 'live']++;
    const hashing = sha256(bytes ?? new TextEncoder().encode(text)).then((hash) => (record.hash = hash));
    this.#hashing.add(hashing);
    hashing.finally(() => this.#hashing.delete(hashing));
    return record;
  }

  gap({ to, first, last, why }) {
    const n = last - first + 1;
    this.gaps.push({ ch: to, from: first, to: last, why });
    this.counts.gaps += n;
    this.gapsOf[to] = (this.gapsOf[to] ?? 0) + n;
  }

  // settled is fulfilled when every message noted so far has its hash.
  settled() {
    return Promise.all(this.#hashing);
  }
}

// sha256 is the hash in hex; empty where the browser has no crypto.subtle (plain HTTP from another machine).
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return '';
  const digest = await crypto.subtle.digest('SHA-256', bytes);
  return Array.from(new Uint8Array(digest), (b) => b.toString(16).padStart(2, '0')).join('');
}
