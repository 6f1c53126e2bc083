// The page: it joins the client, the log, the instruments and the forms.

import { Log } from '/demo/log.js';
import { Panel } from '/demo/panel.js';
import { Record } from '/demo/record.js';
import * as sessions from '/demo/session.js';
import { closing, count, plural, span } from '/demo/text.js';
import { connect } from '/demo/weft.js';
import { Wire } from '/demo/wire.js';

const $ = (id) => document.getElementById(id);
const session = sessions.restore();
const record = new Record();
const log = new Log($('log'));
const panel = new Panel(document, view, leave);
let client = null;
let wire = null;
let state = 'offline'; // offline, connecting, online, waiting, stopped
let leftAt = 0; // ms since 1970 when the connection was lost; 0 while there is one
let welcomed = ''; // the turn whose welcome is in the log
let tokenless = false; // whether this server gives out no tokens
let catching = null; // {left, all, omitted, since} while what was missed is coming

window.weftDemo = record;

function view() {
  const { mailboxes = [], tabs = 1, leads = false, facts = null } = wire ?? {};
  record.counts.repeats = wire?.repeats ?? 0;
  return { counts: record.counts, gaps: record.gapsOf, mailboxes, tabs, leads, facts, topics: session.topics, shown: log.shown, total: log.total };
}

// ---- what the client tells

const on = {
  status(status) {
    if (status.state === 'open') return online();
    const now = { connecting: 'connecting', waiting: 'waiting', closed: 'stopped' }[status.state];
    gone(now, closing(status, leftAt || state === 'online'), status.retryAt);
  },

  message(message) {
    const arrived = Date.now();
    wire.handed(message.to, message.seq);
    const shown = { ...message, caughtUp: wire.waited(message.to, message.seq) };
    record.message(shown);
    log.message(shown, arrived);
    if (!shown.caughtUp && !shown.again) panel.latency(arrived - message.at);
    if (shown.caughtUp) caughtUp(1);
    panel.draw();
  },

  gap(gap) {
    wire.handed(gap.to, gap.last);
    record.gap(gap);
    log.gap(gap, Date.now());
    caughtUp(gap.last - gap.first + 1, true);
    panel.draw();
  },

  error(error) {
    if (error.name !== 'WeftError') return; // the status says it
    if (error.code === 'hole') record.counts.holes++;
    log.note('trouble', error.code === 'hole' ? `${capital(error.message)}.` : `The server says: ${error.message}`, Date.now());
  },

  failed({ message, error }) {
    log.note('trouble', `No. ${count(message.seq)} of ${message.to} can’t be shown: ${error}`, Date.now());
  },
};

function online() {
  const first = record.counts.connects++ === 0;
  const away = leftAt ? ` after ${span(Date.now() - leftAt)}` : '';
  leftAt = 0;
  const words = first ? `Connected as ${session.user}, device ${session.device}.` : `Back online${away}.`;
  const known = wire.facts && wire.facts.turn !== welcomed; // else the tab that holds the connection has not told yet
  log.note('online', known ? `${words} ${missed(wire.facts.behind, first)}` : words, Date.now());
  welcomed = wire.facts?.turn ?? '';
  show({ state: 'online', words: where() });
}

// gone tells that there is no connection. Only what changes is told in the log: a server that is away for an hour must not
// fill it.
function gone(now, words, retryAt) {
  if (state === 'online' && !leftAt && now !== 'connecting') {
    leftAt = Date.now();
    catching = null;
    log.note(now === 'offline' ? 'offline' : 'trouble', words, leftAt);
  } else if (now === 'stopped') {
    log.note('trouble', words, Date.now());
  }
  show({ state: now, words, retryAt });
  if (now === 'stopped' && !record.counts.connects) showLogin(words);
}

// where says what this tab is connected to, and how.
function where() {
  const { facts, leads, draining } = wire;
  if (!facts) return 'Connected.';
  if (draining) return 'This node is leaving; moving to another one.';
  return `Connected to node ${facts.node.slice(0, 6)}${leads ? '' : ' through another tab'}.`;
}

function show(status) {
  state = status.state;
  panel.status(status);
  $('announce').textContent = status.words;
  panel.draw();
}

// changed takes what is new on the wire. How much was missed is told by the tab that holds the connection.
function changed(what, behind) {
  const { facts, leads } = wire;
  if (what === 'welcome') {
    $('node').textContent = facts.node;
    $('session').textContent = facts.session;
    $('epoch').textContent = facts.epoch;
    catchUp(leads ? facts.behind : 0);
  } else if (what === 'behind') {
    catchUp((catching?.left ?? 0) + behind);
  }
  if (state === 'online') panel.place(where());
  panel.draw();
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

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function missed(behind, first) {
  if (behind === 0) return first ? 'Nothing was waiting.' : 'Nothing was missed.';
  return first ? `${plural(behind, 'message')} waiting.` : `${plural(behind, 'message')} missed.`;
}

// ---- logging in and out

function logIn() {
  sessions.keep(session);
  $('login').hidden = true;
  $('board').hidden = false;
  $('who').textContent = session.user;
  $('hint-user').textContent = session.user;
  $('device').value = session.device;
  document.title = `${session.user} · Weft`;
  goOnline();
}

function goOnline() {
  wire = new Wire(`${session.user}/${session.device}`, changed);
  const { WebSocket } = wire;
  const mine = connect({ url: '/v1/ws', token: session.token ?? tokenFor, device: session.device, topics: session.topics, WebSocket });
  client = mine;
  client.on('*', on.message);
  // What a client says after its time is of no interest.
  for (const event of ['status', 'gap', 'error', 'failed']) client.listen(event, (what) => mine === client && on[event](what));
  on.status(client.status);
}

// leaveWith ends the client. What it says to that is of no interest.
function leaveWith(now, words) {
  const given = client;
  client = null;
  given?.close();
  wire.close();
  gone(now, words);
}

async function tokenFor() {
  try {
    return await sessions.fetchToken(session.user);
  } catch (error) {
    tokenless = error instanceof sessions.NoTokens;
    if (error instanceof sessions.Refused) leaveWith('stopped', error.message); // else it is tried for ever
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
  session.token = token || undefined;
  // Only a token can say who it is for; the name field is a wish.
  if (token) session.user = sessions.subjectOf(token) || session.user;
  logIn();
});

$('logout').addEventListener('click', () => {
  leaveWith('offline', '');
  sessions.forget();
  location.reload();
});

// ---- on the board

$('switch').addEventListener('click', () => {
  if (state === 'offline' || state === 'stopped') goOnline();
  else leaveWith('offline', 'You took this tab offline.');
});

// Another device means another place in the mailboxes: the tab begins anew as that device.
$('device-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const device = $('device').value.trim();
  if (!device || device === session.device) return;
  leaveWith('offline', `Now the device ${device}.`);
  session.device = device;
  leftAt = 0;
  logIn();
});

$('topic-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const topics = sessions.topicsOf($('topic').value);
  $('topic').value = '';
  if (!topics.length) return;
  session.topics = [...new Set([...session.topics, ...topics])];
  client?.subscribe(...topics).catch(() => {}); // the status and the log say why not
  keepTopics();
});

$('clear').addEventListener('click', () => {
  log.clear();
  panel.draw();
});

function leave(topic) {
  session.topics = session.topics.filter((other) => other !== topic);
  client?.unsubscribe(topic).catch(() => {}); // likewise
  keepTopics();
}

function keepTopics() {
  sessions.keep(session);
  panel.draw();
}

// On a phone the log comes first, and what stands beside it elsewhere is folded away above it.
const narrow = matchMedia('(max-width: 800px)');
const fold = () => ($('side').open = !narrow.matches);
narrow.addEventListener('change', fold);
fold();

if (session.user) logIn();
else showLogin();
