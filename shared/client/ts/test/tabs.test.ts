import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { WeftError } from '../src/errors.js';
import { OWN } from './fabric.js';
import { pass, Shown, upTo, world } from './shown.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

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

test('what nobody remembers is a gap for the tab that was away', async () => {
  const { fabric, show, shown } = world(2);
  const [first, second] = shown as [Shown, Shown];
  await pass();
  fabric.publish(OWN, 5);
  await pass();
  second.page.kill();
  for (let i = 0; i < 43; i++) {
    fabric.publish(OWN, 100);
    await pass();
  }
  const page = first.page.browser.page();
  for (const [key, value] of second.page.session) page.session.set(key, value);
  const again = show(page);
  await pass();
  expect(again.gaps).toEqual([{ to: OWN, first: 6, last: 4305 - 4096, why: 'away' }]);
  expect(again.seen).toEqual(upTo(4305, 4305 - 4095));
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
