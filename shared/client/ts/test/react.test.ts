// @vitest-environment happy-dom
import { transform } from 'esbuild';
import { act, createElement as h, type ReactNode, StrictMode, useEffect } from 'react';
import { createRoot, hydrateRoot, type Root } from 'react-dom/client';
import { renderToString } from 'react-dom/server';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

// @ts-expect-error: a text, by vite
import readme from '../README.md?raw';
import { connect } from '../src/index.js';
import { useMessages, useWeft, WeftProvider, type WeftProviderProps } from '../src/react.js';
import { FakeServer, settled } from '../src/testing.js';
import type { Weft } from '../src/types.js';

(globalThis as any).IS_REACT_ACT_ENVIRONMENT = true;

let server: FakeServer;
let root: Root;
let page: HTMLElement;
let complaints: ReturnType<typeof vi.spyOn>;

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  page = document.createElement('main');
  root = createRoot(page);
  complaints = vi.spyOn(console, 'error').mockImplementation(() => {});
});

afterEach(async () => {
  await act(() => root.unmount());
  await vi.advanceTimersByTimeAsync(1_000);
  vi.useRealTimers();
  sessionStorage.clear(); // where there are no locks it is what a tab remembers its device by
  // React complains on the console; so does the client of errors that nobody listens to.
  const ours = complaints.mock.calls.filter(([first]: unknown[]) => !String(first).startsWith('weft'));
  vi.restoreAllMocks();
  expect(ours).toEqual([]);
});

const options = (more: Partial<WeftProviderProps> = {}) => ({ url: 'ws://fake', token: 'any', WebSocket: server.WebSocket, ...more }) as WeftProviderProps;

const show = (...children: ReactNode[]) => act(async () => {
  root.render(h(StrictMode, null, ...children));
  await settled();
});

const provide = (child: ReactNode, more: Partial<WeftProviderProps> = {}) => h(WeftProvider, options(more), child);

const happens = (what: () => unknown) => act(async () => {
  what();
  await settled();
});

function Status() {
  return h('b', null, useWeft().status.state);
}

function Orders({ type = 'order', limit }: { type?: string; limit?: number }) {
  const orders = useMessages(type, limit ? { limit } : {});
  return h('i', null, orders.map(({ data }) => data).join(' '));
}

const text = (tag: string) => page.querySelector(tag)?.textContent;

test('a provider connects once, in StrictMode too, and closes with its last component', async () => {
  await show(provide(h(Status)));
  expect(text('b')).toBe('open');
  expect(server.sessions).toHaveLength(1);
  await show(null);
  expect(server.connected).toBe(true); // it might be mounted again
  await vi.advanceTimersByTimeAsync(1_000);
  expect(server.connected).toBe(false);
  expect(server.sessions).toHaveLength(1);
});

test('status follows the connection', async () => {
  await show(provide(h(Status)));
  await happens(() => server.kill());
  expect(text('b')).toBe('waiting');
  await act(() => vi.advanceTimersByTimeAsync(60_000));
  expect(text('b')).toBe('open');
  await happens(() => server.close(4403, 'forbidden'));
  expect(text('b')).toBe('closed');
});

test('messages are shown, the last ones, oldest first, and acknowledged', async () => {
  server.publish('order', 'before');
  await show(provide(h(Orders, { limit: 3 })));
  expect(text('i')).toBe('before');
  await happens(() => ['a', 'b', 'c'].forEach((data) => server.publish('order', data)));
  await happens(() => server.publish('other', 'x'));
  expect(text('i')).toBe('a b c');
  await act(() => vi.advanceTimersByTimeAsync(100));
  expect(server.cursor()).toBe(5);
  await show(provide(h(Orders, { limit: 2 })));
  expect(text('i')).toBe('b c');
});

test('another type begins anew, all types are the default', async () => {
  function All() {
    return h('u', null, useMessages().map(({ type }) => type).join(' '));
  }
  const tree = (type: string) => provide([h(Orders, { type, key: 1 }), h(All, { key: 2 })]);
  await show(tree('a'));
  await happens(() => (server.publish('a', 1), server.publish('b', 2)));
  expect([text('i'), text('u')]).toEqual(['1', 'a b']);
  await show(tree('b'));
  await happens(() => (server.publish('a', 3), server.publish('b', 4)));
  expect([text('i'), text('u')]).toEqual(['4', 'a b a b']);
});

test('handlers in effects are called once per message, and hold the acknowledgement', async () => {
  const seen: number[] = [];
  let settle = () => {};
  function Effect() {
    const { weft } = useWeft();
    useEffect(() => weft.on('order', ({ seq }) => (seen.push(seq), new Promise<void>((done) => (settle = done)))), [weft]);
    return null;
  }
  await show(provide(h(Effect)));
  await happens(() => server.publish('order', 1));
  await act(() => vi.advanceTimersByTimeAsync(500));
  expect(seen).toEqual([1]);
  expect(server.cursor()).toBe(0);
  settle();
  await act(() => vi.advanceTimersByTimeAsync(500));
  expect(server.cursor()).toBe(1);
});

test('options may be made anew for each rendering; other ones are another connection', async () => {
  const seen: Weft<any>[] = [];
  function Seen() {
    seen.push(useWeft().weft);
    return null;
  }
  const tokens = vi.fn(() => 'second');
  const tree = (more: Partial<WeftProviderProps>) => show(provide([h(Seen, { key: 1 }), h(Orders, { key: 2 })], more));
  await tree({ token: () => 'first', topics: ['news'] });
  await happens(() => server.publish('order', 'mine'));
  await tree({ token: tokens, topics: ['news', 'sport'] });
  expect(server.sessions).toHaveLength(1);
  expect([...server.session.lanes.keys()]).toEqual(['user:alice', 'all', 'topic:news', 'topic:sport']);
  await tree({ token: tokens, topics: ['sport'] });
  expect([...server.session.lanes.keys()]).toEqual(['user:alice', 'all', 'topic:sport']);
  expect(new Set(seen).size).toBe(1);
  server.check = (token) => (token === 'first' ? 4401 : 0);
  await happens(() => server.close(4401, 'token_expired'));
  await act(() => vi.advanceTimersByTimeAsync(60_000));
  expect(tokens).toHaveBeenCalledWith('expired');
  expect(server.hellos.at(-1)).toMatchObject({ token: 'second', topics: ['sport'] });
  expect(text('i')).toBe('mine');
  await tree({ token: tokens, topics: ['sport'], device: 'other' });
  expect(server.hellos.at(-1)!.device).toBe('other');
  expect(server.sessions.filter((session) => session.welcomed)).toHaveLength(1);
  expect(new Set(seen).size).toBe(2);
  expect(text('i')).toBe('');
});

test('a token that is passed as text may be replaced; of another user it is another connection', async () => {
  const jwt = (sub: string, nonce: number) => `x.${btoa(JSON.stringify({ sub, nonce }))}.y`;
  await show(provide(h(Orders), { token: jwt('alice', 1) }));
  await happens(() => server.publish('order', 'mine'));
  await show(provide(h(Orders), { token: jwt('alice', 2) }));
  expect(server.sessions).toHaveLength(1);
  await happens(() => server.close(4401, 'token_expired'));
  await act(() => vi.advanceTimersByTimeAsync(60_000));
  expect(server.hellos.at(-1)!.token).toBe(jwt('alice', 2));
  expect(text('i')).toBe('mine');
  await show(provide(h(Orders), { token: jwt('bob', 1) }));
  expect(text('i')).toBe('');
  expect(server.hellos.at(-1)!.token).toBe(jwt('bob', 1));
});

test('subscribe, unsubscribe and messages() work before there is a connection', async () => {
  const got: unknown[] = [];
  function Loop() {
    const { weft } = useWeft();
    useEffect(() => {
      void weft.subscribe('news');
      const loop = weft.messages();
      void (async () => {
        for await (const { data } of loop) got.push(data);
      })();
      return () => void loop.return?.();
    }, [weft]);
    return null;
  }
  await act(async () => {
    root.render(provide(h(Loop)));
    await settled();
  });
  await happens(() => server.publish('a', 1, { to: 'topic:news' }));
  await happens(() => server.publish('a', 2, { to: 'topic:news' }));
  expect(got).toEqual([1, 2]);
});

test('a connection that was made elsewhere is passed on and not closed', async () => {
  const weft = connect({ url: 'ws://fake', token: 'any', WebSocket: server.WebSocket });
  await show(h(WeftProvider, { weft }, h(Status)));
  expect(text('b')).toBe('open');
  await show(null);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(server.connected).toBe(true);
  weft.close();
});

test('a server renders it and connects nowhere; the browser takes it over', async () => {
  const tree = provide([h(Status, { key: 1 }), h(Orders, { key: 2 })]);
  const html = renderToString(tree);
  await settled();
  expect(server.sessions).toEqual([]);
  expect(html).toBe('<b>connecting</b><i></i>');
  page = document.createElement('main');
  page.innerHTML = html;
  const faults: unknown[] = [];
  await act(async () => {
    root = hydrateRoot(page, tree, { onRecoverableError: (error) => faults.push(error) });
    await settled();
  });
  expect(text('b')).toBe('open');
  expect(faults).toEqual([]);
});

test('without a provider the hooks say what is missing', async () => {
  await expect(show(h(Status))).rejects.toThrow('<WeftProvider>');
  complaints.mockClear();
});

test('the example of the README does what it says', async () => {
  const tsx = /```tsx\n([^]*?)```/.exec(readme as string)![1]!.replace(/^import .*$/m, '');
  const { code } = await transform(tsx, { loader: 'tsx' });
  const rang = vi.fn();
  vi.stubGlobal('WebSocket', server.WebSocket);
  const scope = { React: { createElement: h }, useMessages, useWeft, WeftProvider, useEffect, root, getToken: () => 'any', ring: rang };
  await act(async () => {
    new Function(...Object.keys(scope), code)(...Object.values(scope));
    await settled();
  });
  await happens(() => [5, 6].forEach((total) => server.publish('order.paid', { total })));
  expect(page.innerHTML).toBe('<ul class="open"><li>5</li><li>6</li></ul>');
  expect(rang.mock.calls).toEqual([[{ total: 5 }], [{ total: 6 }]]);
  expect(server.session.url).toBe('wss://push.example.com/v1/ws');
  vi.unstubAllGlobals();
});
