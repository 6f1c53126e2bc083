import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { OWN } from './fabric.js';
import { pass, Shown, upTo, world } from './shown.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

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
