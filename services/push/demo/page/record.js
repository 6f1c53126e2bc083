// What the page received, for tests and for curious people at the console: `weftDemo` on the window.

const MOST = 100_000; // records kept: a page left open over the weekend must not fill the memory

export class Record {
  messages = []; // {ch, seq, id, type, at, re, caughtUp, hash}, in the order of arrival
  gaps = []; // {ch, from, to, why}
  counts = { received: 0, live: 0, caughtUp: 0, again: 0, repeats: 0, gaps: 0, holes: 0, connects: 0, behind: 0 };
  #hashing = new Set();

  // message notes what arrived; its hash is filled in a moment later, and `settled` waits for it.
  message({ ch, seq, id, type = '', at, re = false, caughtUp = false, text, bytes }) {
    const record = { ch, seq, id, type, at, re, caughtUp, hash: '' };
    this.messages.push(record);
    if (this.messages.length > MOST) this.messages.splice(0, MOST / 10);
    this.counts.received++;
    this.counts[re ? 'again' : caughtUp ? 'caughtUp' : 'live']++;
    const hashing = sha256(bytes ?? new TextEncoder().encode(text)).then((hash) => (record.hash = hash));
    this.#hashing.add(hashing);
    hashing.finally(() => this.#hashing.delete(hashing));
    return record;
  }

  gap(gap) {
    this.gaps.push(gap);
    this.counts.gaps += gap.to - gap.from + 1;
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
