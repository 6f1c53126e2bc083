// The page: it joins the client, the log, the instruments and the forms.

import { Log } from '/demo/log.js';
import { Panel } from '/demo/panel.js';
import { Record } from '/demo/record.js';
import * as sessions from '/demo/session.js';
import { count, plural, span } from '/demo/text.js';
import { Weft } from '/demo/weft.js';

const $ = (id) => document.getElementById(id);
const session = sessions.restore();
const record = new Record();
const log = new Log($('log'));
const panel = new Panel(document, view, leave);
let client = null;
let state = 'offline';
let leftAt = 0; // ms since 1970 when the connection was lost; 0 while there is one
let tokenless = false; // whether this server gives out no tokens
let catching = null; // {left, all, omitted, since} while what was missed is coming

window.weftDemo = record;

function view() {
  const shown = log.shown;
  return { counts: record.counts, mailboxes: client?.mailboxes ?? [], topics: client?.topics ?? [], shown, total: log.total };
}

const on = {
  status(status) {
    // Only what changes is told: a server that is away for an hour must not fill the log.
    if (state === 'online' && status.state !== 'online' && !leftAt) {
      leftAt = Date.now();
      catching = null;
      log.note(status.state === 'offline' ? 'offline' : 'trouble', status.words, leftAt);
    } else if (status.state === 'stopped') {
      log.note('trouble', status.words, Date.now());
    }
    state = status.state;
    panel.status(status);
    $('announce').textContent = status.words;
    countDown(status);
    if (status.state === 'stopped' && !record.counts.connects) showLogin(status.words);
    panel.draw();
  },

  welcome({ user, device, node, session: name, epoch, behind }) {
    const first = record.counts.connects++ === 0;
    $('node').textContent = node;
    $('session').textContent = name;
    $('epoch').textContent = epoch;
    $('device').value = device;
    const away = leftAt ? ` after ${span(Date.now() - leftAt)}` : '';
    leftAt = 0;
    const words = first ? `Connected as ${user}, device ${device}.` : `Back online${away}.`;
    log.note('online', `${words} ${missed(behind, first)}`, Date.now());
    catchUp(behind);
  },

  subscribed({ behind }) {
    catchUp(behind);
    panel.draw();
  },

  message(message) {
    const arrived = Date.now();
    record.message(message);
    log.message(message, arrived);
    if (!message.caughtUp && !message.re) panel.latency(arrived - message.at);
    if (message.caughtUp) caughtUp(1);
    panel.draw();
  },

  gap(gap) {
    record.gap(gap);
    log.gap(gap, Date.now());
    caughtUp(gap.to - gap.from + 1, true);
    panel.draw();
  },

  acked: () => panel.draw(),

  repeat() {
    record.counts.repeats++;
    panel.draw();
  },

  hole({ ch, expected, got }) {
    record.counts.holes++;
    log.note('trouble', `${ch} went from ${expected - 1} to ${got} without a word; asking again.`, Date.now());
  },

  problem({ message, code }) {
    log.note('trouble', `The server says: ${message ?? code}`, Date.now());
  },
};

function missed(behind, first) {
  if (behind === 0) return first ? 'Nothing was waiting.' : 'Nothing was missed.';
  return first ? `${plural(behind, 'message')} waiting.` : `${plural(behind, 'message')} missed.`;
}

function catchUp(behind) {
  record.counts.behind = behind;
  catching = behind ? { left: behind, all: behind, omitted: 0, since: Date.now() } : null;
}

function caughtUp(n, omitted = false) {
  if (!catching) return;
  catching.left -= n;
  if (omitted) catching.omitted += n;
  record.counts.behind = Math.max(0, catching.left);
  if (catching.left > 0) return;
  const gaps = catching.omitted ? `, and ${count(catching.omitted)} that will not come,` : '';
  const came = plural(catching.all - catching.omitted, 'message');
  const words = `Caught up: ${came}${gaps} in ${span(Date.now() - catching.since)}.`;
  catching = null;
  log.note('online', words, Date.now());
  $('announce').textContent = words;
}

// countDown tells when the next attempt comes, once a second.
function countDown(status) {
  clearInterval(countDown.timer);
  if (status.state !== 'waiting') return;
  const tell = () => {
    const seconds = Math.ceil((status.retryAt - Date.now()) / 1_000);
    $('reason').textContent = `${status.words} Next try ${seconds > 0 ? `in ${seconds} s` : 'now'}.`;
  };
  tell();
  countDown.timer = setInterval(tell, 1_000);
}

// ---- logging in and out

function connect() {
  sessions.keep(session);
  $('login').hidden = true;
  $('board').hidden = false;
  $('who').textContent = session.user;
  $('hint-user').textContent = session.user;
  $('device').value = session.device;
  document.title = `${session.user} · Weft`;
  const url = new URL('/v1/ws', location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  client = new Weft(
    {
      url: url.href,
      user: session.user,
      device: session.device,
      topics: session.topics,
      storage: localStorage,
      token: tokenFor,
    },
    on,
  );
  client.connect();
}

async function tokenFor(refusal) {
  try {
    return await sessions.tokenOf(session, refusal);
  } catch (error) {
    tokenless = error instanceof sessions.NoTokens;
    throw error;
  }
}

function showLogin(words = '') {
  $('login').hidden = false;
  $('board').hidden = true;
  $('user').value = session.user ?? '';
  $('topics').value = session.topics.join(', ');
  $('login-problem').textContent = words;
  $('token').required = tokenless;
  if (!tokenless) return;
  $('token-field').open = true;
  $('token').focus();
}

$('login-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const token = $('token').value.trim();
  session.topics = sessions.topicsOf($('topics').value);
  session.user = $('user').value.trim();
  session.own = token !== '';
  session.token = token;
  // Only a token can say who it is for; the name field is a wish.
  if (token) session.user = sessions.subjectOf(token) || session.user;
  connect();
});

$('logout').addEventListener('click', () => {
  client.disconnect();
  sessions.forget();
  location.reload();
});

// ---- on the board

$('switch').addEventListener('click', () => {
  if (state === 'offline' || state === 'stopped') client.connect();
  else client.disconnect();
});

// Another device means another place in the mailboxes: the page begins anew as that device.
$('device-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const device = $('device').value.trim();
  if (!device || device === session.device) return;
  client.disconnect(`Now the device ${device}.`);
  session.device = device;
  leftAt = 0;
  connect();
});

$('topic-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const topics = sessions.topicsOf($('topic').value);
  $('topic').value = '';
  if (!topics.length) return;
  client.subscribe(topics);
  keepTopics();
});

$('clear').addEventListener('click', () => {
  log.clear();
  panel.draw();
});

function leave(topic) {
  client.unsubscribe([topic]);
  keepTopics();
}

function keepTopics() {
  session.topics = client.topics;
  sessions.keep(session);
  panel.draw();
}

window.addEventListener('online', () => client?.nudge());
document.addEventListener('visibilitychange', () => document.hidden || client?.nudge());

// On a phone the log comes first, and what stands beside it elsewhere is folded away above it.
const narrow = matchMedia('(max-width: 800px)');
const fold = () => ($('side').open = !narrow.matches);
narrow.addEventListener('change', fold);
fold();

if (session.user) connect();
else showLogin();
