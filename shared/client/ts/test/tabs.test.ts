import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { WeftError } from '../src/errors.js';
import { Browser } from './browser.js';
import { Fabric, OWN } from './fabric.js';
import { Shown } from './shown.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const pass = (ms = 100) => vi.advanceTimersByTimeAsync(ms);
const upTo = (n: number, from = 1) => Array.from({ length: n - from + 1 }, (_, i) => from + i);

function world(tabs: number, topics: string[][] = []) {
  const browser = new Browser();
  const fabric = new Fabric();
  const show = (page = browser.page(), its: string[] = [], handles = true) => new Shown(page, fabric, its, handles);
  const shown = Array.from({ length: tabs }, (_, i) => show(browser.page(), topics[i] ?? []));
  return { browser, fabric, show, shown };
}

test('tabs share one connection and each sees every message', async () => {
  const { fabric, shown } = world(3);
  await pass();
  fabric.publish(OWN, 10);
  await pass();
  for (const tab of shown) {
    expect(tab.seen).toEqual(upTo(10));
    expect(tab.client.status.state).toBe('open');
  }
  expect(fabric.opened).toBe(1);
  expect(shown.map((tab) => tab.client.status.leads)).toEqual([true, false, false]);
  expect(fabric.cursor()).toBe(10);
});

test('a message is acknowledged when all tabs that handle it have', async () => {
  const { fabric, show, shown } = world(3);
  const idle = show(undefined, [], false);
  shown[2]!.slow = true;
  await pass();
  fabric.publish(OWN, 3);
  await pass(1_000);
  expect(shown[0]!.handled).toEqual([1, 2, 3]);
  expect(fabric.cursor()).toBe(0);
  shown[2]!.settle(2);
  await pass();
  expect(fabric.cursor()).toBe(2);
  shown[2]!.settle();
  await pass();
  expect(fabric.cursor()).toBe(3);
  expect(idle.seen).toEqual([]);
});

test('a slow tab that answers is waited for, however long it takes', async () => {
  const { fabric, shown } = world(2);
  shown[1]!.slow = true;
  await pass();
  fabric.publish();
  await pass(10 * 60_000);
  expect(fabric.cursor()).toBe(0);
  shown[1]!.settle();
  await pass();
  expect(fabric.cursor()).toBe(1);
});

test('the leader dies in the middle of 100 messages', async () => {
  const { fabric, shown } = world(3);
  const [first, ...others] = shown;
  await pass();
  fabric.publish(OWN, 40);
  await pass(4);
  fabric.publish(OWN, 20);
  await pass(2); // some of it is on its way between tabs
  first!.page.kill();
  fabric.publish(OWN, 40);
  await pass();
  for (const tab of others) expect(tab.seen).toEqual(upTo(100));
  expect(others.map((tab) => tab.client.status.leads)).toEqual([true, false]);
  expect(fabric.cursor()).toBe(100);
});

test('leaders change while messages are not settled: nobody gets one twice, and none is acknowledged early', async () => {
  const { fabric, shown } = world(3);
  const [first, second, third] = shown as [Shown, Shown, Shown];
  second.slow = third.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  second.settle(4);
  third.settle(2);
  await pass();
  expect(fabric.cursor()).toBe(2);
  first.page.kill();
  await pass();
  fabric.publish(OWN, 2);
  await pass();
  expect(second.seen).toEqual(upTo(7));
  expect(third.seen).toEqual(upTo(7));
  expect(fabric.cursor()).toBe(2);
  third.settle();
  await pass();
  expect(fabric.cursor()).toBe(4);
  second.settle();
  await pass();
  expect(fabric.cursor()).toBe(7);
});

test('what only the dead leader had handled is acknowledged, and what another had not is not', async () => {
  const { fabric, show, shown } = world(1);
  const idle = show(undefined, [], false);
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  shown[0]!.page.kill();
  await pass();
  const handled: number[] = [];
  idle.client.on('*', ({ seq }) => void handled.push(seq));
  fabric.publish();
  await pass();
  expect(fabric.cursor()).toBe(6);
  expect(handled).toEqual([6]);
});

test('a new leader acknowledges nothing before all tabs that live have joined', async () => {
  const { browser, fabric, shown } = world(3);
  const [first, second, third] = shown as [Shown, Shown, Shown];
  await pass();
  third.slow = true;
  fabric.publish(OWN, 3);
  await pass();
  third.page.freeze();
  first.page.kill();
  await pass(1_000);
  expect(second.tab.leads).toBe(true);
  fabric.publish(OWN, 2);
  await pass(1_000);
  expect(second.handled).toEqual(upTo(5));
  expect(fabric.cursor()).toBe(0);
  third.page.thaw();
  await pass();
  third.settle();
  await pass();
  expect(third.seen).toEqual(upTo(5));
  expect(fabric.cursor()).toBe(5);
  expect(browser.held.size).toBe(3); // to lead, and two tabs
});

test('a tab that comes later sees what comes from then on', async () => {
  const { fabric, show } = world(1);
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  const late = show();
  late.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  expect(late.seen).toEqual(upTo(10, 6));
  expect(late.gaps).toEqual([]);
  expect(fabric.cursor()).toBe(5);
  expect(late.statuses.at(-1)).toEqual({ state: 'open', leads: false });
  expect(late.statuses).toHaveLength(1);
  late.settle();
  await pass();
  expect(fabric.cursor()).toBe(10);
});

test('a tab that is closed or crashes holds nothing up', async () => {
  const { fabric, shown } = world(3);
  shown[1]!.slow = shown[2]!.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  shown[1]!.page.kill();
  await pass();
  expect(fabric.cursor()).toBe(0);
  shown[2]!.client.close();
  await pass();
  expect(fabric.cursor()).toBe(5);
  expect(shown[2]!.client.status).toMatchObject({ state: 'closed', code: 1000 });
});

test('a frozen tab holds acknowledgements up for 20 s at most, and misses nothing', async () => {
  const { fabric, shown } = world(2);
  await pass();
  shown[1]!.page.freeze();
  fabric.publish(OWN, 5);
  await pass(14_000);
  expect(fabric.cursor()).toBe(0);
  await pass(6_000);
  expect(fabric.cursor()).toBe(5);
  fabric.publish(OWN, 5);
  await pass();
  expect(fabric.cursor()).toBe(10);
  shown[1]!.page.thaw();
  await pass();
  expect(shown[1]!.seen).toEqual(upTo(10));
  shown[1]!.slow = true;
  fabric.publish();
  await pass();
  expect(fabric.cursor()).toBe(10); // it counts again
});

test('a frozen leader loses the lead, and follows when it wakes', async () => {
  const { fabric, shown } = world(3);
  const [first, second, third] = shown as [Shown, Shown, Shown];
  await pass();
  fabric.publish(OWN, 3);
  await pass();
  first.page.freeze();
  fabric.publish(OWN, 3);
  await pass(30_000);
  expect([second.tab.leads, third.tab.leads].filter(Boolean)).toHaveLength(1);
  for (const tab of [second, third]) expect(tab.seen).toEqual(upTo(6));
  first.page.thaw();
  await pass(5_000);
  fabric.publish(OWN, 3);
  await pass();
  for (const tab of shown) {
    expect(tab.seen).toEqual(upTo(9));
    expect(tab.client.status.state).toBe('open');
  }
  expect(first.tab.leads).toBe(false);
  expect(fabric.cursor()).toBe(9);
});

test('a tab that is reloaded goes on where it was', async () => {
  const { fabric, show, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  second.page.kill();
  fabric.publish(OWN, 5); // while it is away
  await pass();
  expect(fabric.cursor()).toBe(10);
  const page = first.page.browser.page();
  for (const [key, value] of second.page.session) page.session.set(key, value);
  const again = show(page);
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  expect(again.seen).toEqual(upTo(15, 6));
  expect(again.gaps).toEqual([]);
  expect(first.seen).toEqual(upTo(15));
});

test('the leader that is reloaded goes on where it was too', async () => {
  const { fabric, show, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  second.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  first.page.kill();
  fabric.publish(OWN, 3);
  const page = first.page.browser.page();
  for (const [key, value] of first.page.session) page.session.set(key, value);
  const again = show(page);
  await pass();
  expect(again.seen).toEqual([6, 7, 8]);
  expect(second.seen).toEqual(upTo(8));
  expect(fabric.cursor()).toBe(0);
});

test('what nobody remembers is a gap for the tab that was away', async () => {
  const { fabric, show, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  second.page.kill();
  for (let i = 0; i < 30; i++) {
    fabric.publish(OWN, 10);
    await pass();
  }
  const page = first.page.browser.page();
  for (const [key, value] of second.page.session) page.session.set(key, value);
  const again = show(page);
  await pass();
  expect(again.gaps).toEqual([{ to: OWN, first: 6, last: 305 - 256, why: 'away' }]);
  expect(again.seen).toEqual(upTo(305, 50));
});

test('topics are those that some tab wants, and each tab sees its own', async () => {
  const { fabric, show, shown } = world(2, [['news'], ['sport']]);
  const [first, second] = shown as [Shown, Shown];
  const got: string[][] = [[], []];
  shown.forEach((tab, i) => tab.client.on('*', ({ to, seq }) => void got[i]!.push(`${to} ${seq}`)));
  await pass();
  fabric.publish('topic:news', 2);
  fabric.publish('topic:sport', 1);
  await pass();
  expect(got).toEqual([['topic:news 1', 'topic:news 2'], ['topic:sport 1']]);
  await Promise.all([second.client.subscribe('news'), pass()]);
  fabric.publish('topic:news');
  await pass();
  expect(got[1]).toEqual(['topic:sport 1', 'topic:news 3']);
  await Promise.all([first.client.unsubscribe('news'), pass()]);
  fabric.publish('topic:news');
  await pass();
  expect(got[0]).toEqual(['topic:news 1', 'topic:news 2', 'topic:news 3']);
  second.page.kill();
  await pass();
  fabric.publish('topic:sport'); // nobody wants it any more
  await pass();
  expect(fabric.cursor('topic:sport')).toBe(1);
  expect(fabric.cursor('topic:news')).toBe(4);
  const third = show(undefined, ['sport']);
  await pass();
  third.slow = false;
  expect(fabric.cursor('topic:sport')).toBe(2);
});

test('a subscription that is under way outlives the leader', async () => {
  const { fabric, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  let served = false;
  void second.client.subscribe('news').then(() => (served = true));
  await pass(2);
  first.page.kill();
  expect(served).toBe(false);
  await pass();
  expect(served).toBe(true);
  fabric.publish('topic:news');
  await pass();
  expect(fabric.cursor('topic:news')).toBe(1);
});

test('a subscription at any moment of joining is served', async () => {
  for (let ms = 0; ms < 120; ms += 3) {
    const { browser, show, shown } = world(1);
    await pass();
    browser.latency = () => 20;
    const late = show();
    if (ms) await pass(ms - 1);
    let served = false;
    void late.client.subscribe('news').then(() => (served = true));
    await pass(500);
    expect(served, `after ${ms} ms`).toBe(true);
    for (const tab of [...shown, late]) tab.client.close();
  }
});

test('live messages reach all tabs', async () => {
  const { fabric, shown } = world(2);
  const live: boolean[] = [];
  for (const tab of shown) tab.client.on('*', (message) => void live.push(message.live));
  await pass();
  fabric.live();
  await pass();
  expect(live).toEqual([true, true]);
});

test('the connection may break: nobody gets anything twice', async () => {
  const { fabric, show, shown } = world(2);
  shown[1]!.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  fabric.cut();
  const late = show(); // while it is away
  await pass();
  fabric.publish(OWN, 2);
  await pass();
  for (const tab of shown) expect(tab.seen).toEqual(upTo(7));
  expect(late.seen).toEqual([6, 7]);
});

test('another numbering voids what tabs know', async () => {
  const { fabric, show, shown } = world(2);
  shown[1]!.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  fabric.series = 'b';
  fabric.heads.set(OWN, 2);
  fabric.stored.clear();
  fabric.cut();
  await pass();
  expect(shown[1]!.seen).toEqual([1, 2, 3, 4, 5, 1, 2]);
  expect(fabric.cursor()).toBe(0);
  shown[1]!.settle();
  await pass();
  expect(fabric.cursor()).toBe(2);
  const late = show();
  fabric.publish();
  await pass();
  fabric.publish();
  await pass();
  expect(late.seen.at(-1)).toBe(4);
});

test('an acknowledgement of another numbering that is still under way counts for nothing', async () => {
  const { browser, fabric, shown } = world(2);
  shown[1]!.slow = true;
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  browser.latency = () => 50;
  fabric.series = 'b';
  fabric.heads.set(OWN, 9);
  fabric.stored.clear();
  fabric.cut();
  await pass(30);
  shown[1]!.settle(); // it has not heard yet
  await pass(1_000);
  expect(shown[1]!.seen).toEqual([...upTo(5), ...upTo(9)]);
  expect(fabric.cursor()).toBe(0);
});

test('closed for good is closed for all, and a tab that comes later tries anew', async () => {
  const { fabric, show, shown } = world(2);
  await pass();
  const subscribed = shown[1]!.client.subscribe('secret');
  const refused = expect(subscribed).rejects.toMatchObject({ name: 'WeftError', close: 4403 });
  fabric.link!.end(4403);
  await pass(20);
  await refused;
  for (const tab of shown) expect(tab.client.status).toMatchObject({ state: 'closed', code: 4403 });
  const late = show();
  await pass(2_000);
  fabric.publish();
  await pass();
  expect(late.client.status.state).toBe('open');
  expect(late.seen).toEqual([1]);
  expect(fabric.opened).toBe(2);
});

test('a device that another program took over is closed in all tabs', async () => {
  const { fabric, shown } = world(2);
  await pass();
  fabric.link!.replaced();
  await pass(3_000);
  for (const tab of shown) expect(tab.client.status).toMatchObject({ state: 'closed', code: 4409 });
});

test('a leader that closes hands over what it has not acknowledged', async () => {
  const { fabric, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  first.slow = true;
  await pass();
  fabric.publish(OWN, 3);
  await pass();
  expect(fabric.cursor()).toBe(0);
  first.client.close();
  await pass();
  fabric.publish(OWN, 3);
  await pass();
  expect(second.seen).toEqual(upTo(6));
  expect(fabric.cursor()).toBe(6);
});

test('a tab that is closed at any moment of its opening leaves nothing behind', async () => {
  for (let ms = 0; ms < 20; ms++) {
    const { browser, fabric, shown } = world(1);
    if (ms) await pass(ms - 1);
    shown[0]!.client.close();
    await pass(5_000);
    expect(browser.held.size).toBe(0);
    expect(fabric.link).toBeUndefined();
    expect(shown[0]!.statuses.at(-1)!.state).toBe('closed');
  }
});

test('what is settled while a new leader opens its connection is acknowledged', async () => {
  const { fabric, shown } = world(3);
  const [first, , third] = shown as [Shown, Shown, Shown];
  third.slow = true;
  await pass();
  fabric.publish(OWN, 3);
  await pass();
  fabric.delay = 1_000;
  first.page.kill();
  await pass(500);
  third.settle();
  await pass(300);
  expect(fabric.cursor()).toBe(0);
  await pass(500);
  expect(fabric.cursor()).toBe(3);
});

test('a tab that comes while a new leader catches up does not see what was handled before', async () => {
  const { fabric, show, shown } = world(1);
  shown[0]!.slow = true; // so that nothing is acknowledged
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  show();
  await pass();
  fabric.delay = 1_000;
  shown[0]!.page.kill();
  await pass(500);
  const late = show();
  await pass(1_000);
  fabric.publish();
  await pass();
  expect(late.seen).toEqual([6]);
  expect(fabric.cursor()).toBe(6);
});

test('a word that is lost between tabs is noticed, and what is missing comes', async () => {
  const { browser, fabric, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  fabric.publish(OWN, 2);
  await pass();
  browser.loses = (data, to) => data.t === 'items' && !data.tab && to === second.page;
  fabric.publish(OWN, 2);
  await pass();
  browser.loses = () => false;
  expect(second.seen).toEqual([1, 2]);
  expect(fabric.cursor()).toBe(2);
  fabric.publish(OWN, 2);
  await pass();
  for (const tab of [first, second]) {
    expect(tab.seen).toEqual(upTo(6));
    expect(tab.gaps).toEqual([]);
  }
  expect(fabric.cursor()).toBe(6);
});

test('what is said in an earlier term is void', async () => {
  const { browser, fabric, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  first.page.kill();
  await pass();
  const ghost = new (browser.page().scope().BroadcastChannel)('weft:test');
  const term = 0.5;
  const third = new Shown(browser.page(), fabric);
  await pass();
  ghost.postMessage({ term, t: 'status', status: { state: 'waiting' } });
  ghost.postMessage({ term, t: 'items', items: [{ to: OWN, first: 1, last: 1, msg: { seq: 1, id: 'ghost', at: 1, text: '1', data: 1 } }] });
  ghost.postMessage({ term, t: 'lead' });
  await pass();
  fabric.publish(OWN, 2);
  await pass();
  for (const tab of [second, third]) {
    expect(tab.client.status.state).toBe('open');
    expect(tab.seen).toEqual([1, 2]);
  }
  expect(second.tab.leads).toBe(true);
  expect(fabric.cursor()).toBe(2);
});

test('two leaders in a row that did not hear of each other do not confuse anybody', async () => {
  const { browser, fabric, shown } = world(3);
  const [first, second, third] = shown as [Shown, Shown, Shown];
  await pass();
  browser.latency = () => 20;
  first.page.kill();
  await pass(3);
  expect(second.tab.leads).toBe(true);
  second.page.kill(); // its words are under way
  await pass(3_000);
  fabric.publish(OWN, 3);
  await pass();
  expect(third.tab.leads).toBe(true);
  expect(third.client.status.state).toBe('open');
  expect(third.seen).toEqual([1, 2, 3]);
  expect(fabric.cursor()).toBe(3);
});

test('a leader that was replaced while it was frozen follows, also when it hears of that first', async () => {
  const { browser, fabric, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  first.page.freeze();
  await pass(24_900);
  browser.latency = () => 500; // the server is faster
  await pass(5_000);
  expect(second.tab.leads).toBe(true);
  first.page.thaw();
  await pass(5_000);
  fabric.publish();
  await pass(5_000);
  for (const tab of shown) {
    expect(tab.client.status.state).toBe('open');
    expect(tab.seen).toEqual([1]);
  }
});

test('errors reach all tabs as what they were', async () => {
  const { fabric, shown } = world(2);
  const errors: Error[] = [];
  shown[1]!.client.listen('error', (error) => void errors.push(error));
  await pass();
  fabric.link!.fail(new WeftError('busy', 'try later', true, 'topics'));
  fabric.link!.fail(new TypeError('token'));
  await pass();
  expect(errors).toEqual([new WeftError('busy', 'try later', true, 'topics'), expect.objectContaining({ name: 'TypeError', message: 'token' })]);
  expect(errors[0]).toBeInstanceOf(WeftError);
});
