// What a Client talks to: a Connection, or what the tabs of a browser share one by.

import { type Config, Connection } from './connection.js';
import { WeftError } from './errors.js';
import type { Link, Options, Sink, SocketConstructor, Store } from './types.js';
import { claims, endpoint } from './wire.js';

const DEVICE = 'weft:device';

/** What tabs.ts needs of this part; it is handed over, since what both imported would be a file of its own, loaded first. */
const core = { connect: (config: Config, sink: Sink): Link => new Connection(config, sink), claims, WeftError };

export type Core = typeof core;

/** Opens a link; where tabs may share one, when their code has been loaded. Throws a TypeError when the options can never work. */
export function open(options: Options, sink: Sink): Link | Promise<Link> {
  const { token, WebSocket = globalThis.WebSocket as SocketConstructor } = options;
  const urls = [options.url].flat().map(endpoint);
  if (!WebSocket) throw TypeError('no WebSocket');
  const locks = globalThis.navigator?.locks;
  let { store, device } = options;
  const fresh = Math.random().toString(36).slice(2);
  try {
    store ??= localStorage;
    // Without locks tabs can't share: each is a device of its own, and a reloaded one the same.
    const local: Store = locks ? localStorage : sessionStorage;
    device ||= local.getItem(DEVICE)!;
    if (!device) local.setItem(DEVICE, fresh);
  } catch {
    // There is none, or the page may not use it: then it is another device each time.
  }
  const config: Config = { urls, token, store, WebSocket, device: device || fresh };
  if (!locks) return core.connect(config, sink);
  return import('./tabs.js').then(
    ({ share }) => share(options, config, sink, core),
    () => core.connect({ ...config, device: options.device || fresh }, sink),
  );
}
