// One WebSocket after another: tokens, back-off, watchdog, drain, close codes, what the page does.

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { connect, WeftError } from '../src/index.js';
import { FakeServer, settled } from '../src/testing.js';
import type { Options, TokenReason } from '../src/types.js';
import { client, jwt, stubPage, turn } from './page.js';

let server: FakeServer;
let page: ReturnType<typeof stubPage>;

beforeEach(() => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: 1_000_000 });
  page = stubPage();
  server = new FakeServer();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

test('the token travels as a subprotocol, and hello says who this is', async () => {
  await client(server, { token: 'sécret?', topics: ['news'] });
  expect(server.session.protocols).toEqual(['weft.v1.json', `weft.bearer.${btoa('sécret?').replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')}`]);
  expect(server.session.heard[0]).toEqual({ t: 'hello', device: 'laptop', epoch: '', cursors: {}, topics: ['news'], client: 'weft-ts/0.1' });
});

test('urls are taken as people write them', async () => {
  vi.stubGlobal('location', { href: 'https://app.example/a/b' });
  const urls = ['http://h:1', 'https://h/', 'ws://h/v1/ws', 'wss://h/push', '/'];
  for (const url of urls) await client(server, { url });
  const want = ['ws://h:1/v1/ws', 'wss://h/v1/ws', 'ws://h/v1/ws', 'wss://h/push', 'wss://app.example/v1/ws'];
  expect(server.sessions.map(({ url }) => url)).toEqual(want);
  expect(() => connect({ url: 'http://', token: 'x', WebSocket: server.WebSocket })).toThrow(TypeError);
  vi.stubGlobal('WebSocket', undefined);
  expect(() => connect({ url: 'http://h', token: 'x' })).toThrow('no WebSocket');
});

test('a ping is answered, and what a later version says is left alone', async () => {
  const { seqs } = await client(server);
  server.session.say({ t: 'ping' }, { t: 'novelty', x: 1 });
  server.publish('t', 1);
  await settled();
  expect(server.session.heard.map(({ t }) => t)).toEqual(['hello', 'pong']);
  expect(seqs()).toEqual(['1']);
});

describe('back-off', () => {
  const pauses = async (options: Partial<Options>, random: number, tries: number) => {
    vi.spyOn(Math, 'random').mockReturnValue(random);
    server.down = true;
    const { weft } = await client(server, options);
    const list: number[] = [];
    for (let i = 0; i < tries; i++) {
      const pause = weft.status.retryAt! - Date.now();
      list.push(pause);
      await turn(pause);
    }
    return list;
  };

  test('has full jitter below 250 ms, doubling up to 30 s', async () => {
    expect(await pauses({}, 0.5, 9)).toEqual([125, 250, 500, 1000, 2000, 4000, 8000, 15000, 15000]);
    expect(server.sessions).toHaveLength(10);
  });

  test('is close to nothing at best, and below its limit at worst', async () => {
    expect(await pauses({}, 0, 3)).toEqual([0, 0, 0]);
    const worst = await pauses({}, 1 - 2 ** -53, 8);
    expect(Math.max(...worst)).toBeLessThanOrEqual(30_000);
    expect(worst[0]).toBeLessThanOrEqual(250);
  });

  test('tries each of several nodes before it doubles', async () => {
    expect(await pauses({ url: ['ws://a', 'ws://b', 'ws://c'] }, 0.5, 7)).toEqual([125, 125, 125, 250, 250, 250, 500]);
    const asked = server.sessions.map(({ url }) => url.slice(5, 6));
    expect(asked).toEqual(['b', 'c', 'a', 'b', 'c', 'a', 'b', 'c']);
  });

  test('begins anew after a session that lasted, not after one that was welcomed and ended', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const { weft } = await client(server);
    for (const pause of [125, 250, 500]) {
      server.kill();
      await settled();
      expect(weft.status).toEqual({ state: 'waiting', retryAt: Date.now() + pause, code: 1006, reason: '' });
      await turn(pause);
      expect(weft.status.state).toBe('open');
    }
    await turn(5_000);
    server.kill();
    await settled();
    expect(weft.status.retryAt! - Date.now()).toBe(125);
  });

  test('is longer when the server says that it is busy', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const { weft } = await client(server);
    server.close(4429, 'busy');
    await settled();
    expect(weft.status).toEqual({ state: 'waiting', retryAt: Date.now() + 2_000, code: 4429, reason: 'busy' });
  });

  test('is cut short when the network is back or the page is seen', async () => {
    server.down = true;
    vi.spyOn(Math, 'random').mockReturnValue(0.9);
    await client(server);
    for (let i = 0; i < 5; i++) page.fire('online');
    await settled();
    expect(server.sessions, 'one at a time').toHaveLength(2);
    page.hide();
    await settled();
    expect(server.sessions).toHaveLength(2);
    server.down = false;
    page.hide(false);
    await settled();
    expect(server.connected).toBe(true);
  });
});

describe('the watchdog', () => {
  test('asks after a heartbeat of silence and leaves after two', async () => {
    const { weft } = await client(server);
    await turn(19_999);
    expect(server.session.heard).toHaveLength(1);
    await turn(1);
    expect(server.session.heard[1]).toEqual({ t: 'ping' });
    server.silent = true;
    await turn(20_000);
    expect(server.session.heard).toHaveLength(3);
    await turn(19_999);
    expect(weft.status.state).toBe('open');
    await turn(1);
    expect(weft.status).toMatchObject({ state: 'waiting', reason: 'silent' });
    expect(server.sessions[0]!.closed).toBe(1000);
  });

  test('is content with anything that is said', async () => {
    const { weft } = await client(server);
    for (let i = 0; i < 20; i++) {
      await turn(15_000);
      server.publish('t', i);
    }
    await settled();
    expect(weft.status.state).toBe('open');
    expect(server.session.heard.some(({ t }) => t === 'ping')).toBe(false);
  });

  test('gives a handshake and a welcome 10 s each', async () => {
    server.silent = true;
    const { states } = await client(server);
    await turn(9_999);
    expect(states()).toEqual(['connecting']);
    await turn(1);
    expect(states().at(-1)).toBe('waiting');
    server.silent = false;
    vi.spyOn(server, 'check').mockImplementation(() => {
      server.silent = true;
      return 0;
    });
    await turn(30_000);
    expect(server.hellos.length).toBeGreaterThan(0);
    expect(states()).not.toContain('open');
  });

  test('looks at once when the page wakes', async () => {
    const { weft } = await client(server);
    server.silent = true;
    page.hide(false);
    await turn(4_999);
    expect(weft.status.state).toBe('open');
    await turn(1);
    expect(weft.status.reason).toBe('silent');
  });

  test('hears nothing from a socket that was left', async () => {
    const { weft, seqs } = await client(server);
    const left = server.session;
    const { onmessage, onclose } = left;
    server.silent = true;
    await turn(40_000);
    server.silent = false;
    await turn(1_000);
    expect([left.onmessage, left.onclose]).toEqual([null, null]);
    expect(onmessage && onclose).toBeTruthy();
    expect(weft.status.state).toBe('open');
    expect(seqs()).toEqual([]);
  });
});

test('a draining node is left at a random moment of the time that it gives, and what was handled is acknowledged', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.25);
  const { weft, states } = await client(server);
  await turn(5_000);
  server.drain(8_000);
  await turn(1_990);
  server.publish('t', 1);
  await turn(9);
  expect(server.sessions).toHaveLength(1);
  await turn(1);
  await turn(1);
  expect(server.sessions).toHaveLength(2);
  expect(server.acks).toHaveLength(1);
  expect(weft.status.state).toBe('open');
  expect(states().slice(-4)).toEqual(['open', 'waiting', 'connecting', 'open']);
});

test.each([4400, 4403, 4409, 4413])('after %i nothing is tried again', async (code) => {
  const { weft, states } = await client(server);
  server.close(code, 'because');
  const news = weft.subscribe('never');
  await expect(news).rejects.toMatchObject({ name: 'WeftError', code: 'because', message: 'refused: because' });
  await turn(100_000);
  page.fire('online');
  await turn(100_000);
  expect(weft.status).toEqual({ state: 'closed', code, reason: 'because' });
  expect(states().filter((state) => state === 'closed')).toHaveLength(1);
  expect(server.sessions).toHaveLength(1);
  await expect(weft.subscribe('more')).rejects.toBeInstanceOf(WeftError);
  expect(vi.getTimerCount()).toBe(0);
});

test.each([1000, 1001, 1006, 1011, 4408, 4503, 4999])('after %i it is tried again', async (code) => {
  const { weft } = await client(server);
  server.close(code);
  await turn(250);
  expect(weft.status.state).toBe('open');
  expect(server.sessions).toHaveLength(2);
});

test('a jump without a gap is a reason to connect anew, and nothing behind it is handed over', async () => {
  const { seqs, told } = await client(server);
  server.publish('t', 1);
  await settled();
  const broken = server.session;
  server.session.lanes.get('user:alice')!.next = 4; // loses 2 and 3
  for (let i = 2; i <= 5; i++) server.publish('t', i);
  await settled();
  expect(seqs()).toEqual(['1']);
  expect(told.at(-1)).toMatchObject({ state: 'waiting', reason: 'hole' });
  expect(broken.closed).toBe(1000);
  await turn(500);
  expect(seqs()).toEqual(['1', '2', '3', '4', '5']);
});

test('what comes twice in a session is dropped and does no harm', async () => {
  const { seqs } = await client(server);
  for (let i = 0; i < 3; i++) server.publish('t', i);
  server.session.say(server.line(1), server.line(3), server.line(2));
  await turn(50);
  expect(seqs()).toEqual(['1', '2', '3']);
  expect(server.acks).toHaveLength(1);
});

describe('tokens', () => {
  const source = (give: (n: number) => string | Promise<string>) => {
    const reasons: TokenReason[] = [];
    return { reasons, token: async (reason: TokenReason) => give(reasons.push(reason)) };
  };

  test('one is used until it is refused', async () => {
    const { token, reasons } = source((n) => `token-${n}`);
    await client(server, { token });
    for (let i = 0; i < 3; i++) {
      server.kill();
      await turn(2_000);
    }
    expect(server.hellos.map((hello) => hello.token)).toEqual(Array(4).fill('token-1'));
    expect(reasons).toEqual(['connect']);
  });

  test('one that was refused is replaced at once, then with pauses', async () => {
    server.check = (token) => (token === 'token-4' ? 0 : 4401);
    const { token, reasons } = source((n) => `token-${n}`);
    const { weft, states } = await client(server, { token });
    await turn(0);
    expect(reasons).toEqual(['connect', 'expired']);
    expect(weft.status).toMatchObject({ state: 'waiting', code: 4401, reason: 'token_expired' });
    await turn(4_000);
    expect(reasons).toEqual(['connect', 'expired', 'rejected', 'rejected']);
    expect(states().at(-1)).toBe('open');
    await turn(10_000);
    server.close(4401, 'token_expired');
    await turn(4_000);
    expect(reasons.slice(4)[0]).toBe('expired');
  });

  test('one that expires is replaced on the live session, 60 s or a tenth of its life before', async () => {
    const { token, reasons } = source((n) => jwt(n === 1 ? 3_600_000 : 100_000, { n }));
    const { states } = await client(server, { token });
    const beats = async (ms: number) => {
      for (; ms > 0; ms -= 5_000) await turn(Math.min(ms, 5_000));
    };
    await beats(3_539_999);
    expect(reasons).toEqual(['connect']);
    await turn(1);
    expect(reasons).toEqual(['connect', 'expired']);
    expect(server.auths).toHaveLength(1);
    await beats(89_999);
    expect(server.auths).toHaveLength(1);
    await turn(1);
    expect(server.auths).toHaveLength(2);
    expect(states()).toEqual(['connecting', 'open']);
  });

  test('one that expired while the connection was away is replaced', async () => {
    const { token, reasons } = source((n) => jwt(100_000, { n }));
    const { weft } = await client(server, { token });
    server.down = true;
    server.kill();
    await turn(99_000);
    server.down = false;
    server.check = (given) => (JSON.parse(atob(given.split('.')[1]!)).exp * 1000 < Date.now() ? 4401 : 0);
    await turn(60_000);
    expect(weft.status.state).toBe('open');
    expect(reasons).toEqual(['connect', 'connect', 'expired']);
  });

  test('a source that fails, or gives nothing new, costs nothing but the session', async () => {
    const { token, reasons } = source((n) => {
      if (n === 2) throw new Error('no network');
      return jwt(n === 1 ? 100_000 : 200_000, { n });
    });
    const { weft, told } = await client(server, { token });
    await turn(90_000);
    expect(told.at(-1)!.error).toMatchObject({ message: 'no network' });
    expect(weft.status.state).toBe('open');
    server.close(4401, 'token_expired');
    await turn(0);
    expect(reasons).toEqual(['connect', 'expired', 'expired']);
    expect(weft.status.state).toBe('open');
  });

  test('one that comes when its session is over is not said on the next', async () => {
    const answers: ((token: string) => void)[] = [];
    const { token } = source((n) => (n === 1 ? jwt(100_000) : new Promise((resolve) => answers.push(resolve))));
    const { weft } = await client(server, { token });
    await turn(90_000);
    server.kill();
    await turn(125);
    answers[1]!(jwt(200_000, { n: 2 }));
    await settled();
    expect(weft.status.state).toBe('open');
    answers[0]!(jwt(150_000, { n: 3 }));
    await settled();
    expect(server.auths).toEqual([]);
    expect(server.hellos).toHaveLength(2);
  });

  test('a source that fails is asked again', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const { token } = source((n) => (n < 4 ? Promise.reject(new Error(`no ${n}`)) : 'good'));
    const { weft, told } = await client(server, { token });
    expect(weft.status).toEqual({ state: 'waiting', retryAt: Date.now() + 125, code: undefined, reason: 'no 1' });
    await turn(1_000);
    expect(weft.status.state).toBe('open');
    expect(told.filter(({ what }) => what === 'error')).toHaveLength(3);
  });

  test('a source that hangs is given up, and what it gives later is used', async () => {
    let answer = (_: string) => {};
    const token = () => new Promise<string>((resolve) => (answer = resolve));
    const { weft } = await client(server, { token });
    await turn(10_000);
    expect(weft.status).toMatchObject({ state: 'waiting', reason: 'silent' });
    answer('late');
    await turn(250);
    expect(server.hellos.map((hello) => hello.token)).toEqual(['late']);
  });

  test('a token without an end, or with one far away, is left alone', async () => {
    for (const token of ['opaque', 'a.b.c', jwt(2 ** 31 * 10)]) await client(server, { token: () => token, device: token.slice(0, 3) });
    await turn(60_000);
    expect(server.auths).toEqual([]);
  });

  test('a handshake that is refused again and again may be for the token', async () => {
    server.down = true;
    const { token, reasons } = source((n) => `token-${n}`);
    await client(server, { token });
    await turn(3_000);
    expect(reasons).toEqual(['connect', 'connect']);
  });
});

test('close acknowledges and ends, for good', async () => {
  const { weft, seqs, states } = await client(server);
  server.publish('t', 1);
  await settled();
  weft.close();
  weft.close();
  expect(weft.status.state).toBe('closed');
  await settled();
  expect(server.cursor()).toBe(1);
  expect(server.session.closed).toBe(1000);
  server.publish('t', 2);
  page.fire('online');
  await turn(100_000);
  expect(seqs()).toEqual(['1']);
  expect(states()).toEqual(['connecting', 'open', 'closed']);
  expect(vi.getTimerCount()).toBe(0);
});

test('close before the token has come makes no connection', async () => {
  let answer = (_: string) => {};
  const { weft } = await client(server, { token: () => new Promise((resolve) => (answer = resolve)) });
  weft.close();
  answer('late');
  await turn(10_000);
  expect(server.sessions).toHaveLength(0);
});

test.each(['pagehide', 'visibilitychange'])('%s acknowledges at once', async (event) => {
  await client(server);
  server.publish('t', 1);
  await settled();
  expect(server.acks).toEqual([]);
  if (event === 'pagehide') page.fire(event);
  else page.hide();
  expect(server.cursor()).toBe(1);
});
