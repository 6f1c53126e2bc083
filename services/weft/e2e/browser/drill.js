// The page of the drills: it connects as its address says and writes down what it is given. `drill` on the window tells.
//
// The record of a tab is in localStorage, one entry for each message [to, seq, id] or gap [to, first, why, last], written in the
// handler's own turn: so the record is whole whenever the page is loaded again or killed, and shows what came twice.

import { connect } from '/weft.js';

// {urls, user, ttl: how long tokens are good (1h), slow: ms that a handler takes, at most, stuck: ms that it takes for every
// hundredth message, shared}
const asked = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const tab = (sessionStorage.tab ??= crypto.randomUUID());
const mine = () => Object.keys(localStorage).filter((key) => key.startsWith(`${tab} `));

const drill = (window.drill = {
  count: mine().length, // entries in the record of this tab, since it was opened
  sockets: [], // {url, code}: those of this page, code when closed
  statuses: [],
  troubles: [], // what errors and failed handlers said
  reasons: [], // why tokens were asked for
  acked: {}, // address → sequence, as it went over this page's sockets
  tokenless: false, // whether no token is to be had
  newest: 0, // the highest sequence since the page was loaded
  last: 0, // when the last message was handled, in ms since the page was asked for
  record: () => Array.from({ length: drill.count }, (_, n) => JSON.parse(localStorage.getItem(`${tab} ${n}`))),
});

// Tap is the browser's WebSocket, and tells what the page says on it.
class Tap extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    const entry = { url, code: 0 };
    drill.sockets.push(entry);
    this.addEventListener('close', ({ code }) => (entry.code = code));
  }

  send(text) {
    super.send(text);
    for (const { t, ch = `user:${asked.user}`, seq } of text.split('\n').map((line) => JSON.parse(line))) {
      if (t === 'ack') drill.acked[ch] = seq;
    }
  }
}

async function token(reason) {
  drill.reasons.push(reason);
  if (drill.tokenless) throw new Error('no token is to be had');
  const answer = await fetch(`/token?user=${encodeURIComponent(asked.user)}&ttl=${asked.ttl ?? '1h'}`);
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return answer.text();
}

const weft = connect({
  url: asked.urls,
  token,
  topics: asked.topics,
  WebSocket: Tap,
  ...(asked.shared === undefined ? {} : { shared: asked.shared }),
});
drill.device = () => weft.device;
drill.state = () => weft.status.state;
function note(...entry) {
  localStorage.setItem(`${tab} ${drill.count}`, JSON.stringify(entry));
  drill.count++;
}
weft.on('*', ({ to, seq, id }) => {
  note(to, seq, id);
  drill.newest = Math.max(drill.newest, seq);
  drill.last = performance.now();
  const takes = asked.stuck && seq % 100 === 0 ? asked.stuck : (asked.slow ?? 0) * Math.random();
  if (takes) return new Promise((resolve) => setTimeout(resolve, takes));
});
weft.listen('status', (status) => drill.statuses.push(status));
weft.listen('gap', ({ to, first, last, why }) => note(to, first, why, last));
weft.listen('error', (error) => drill.troubles.push(`${error.code ?? error.name}: ${error.message}`));
weft.listen('failed', ({ error }) => drill.troubles.push(`failed: ${error}`));
