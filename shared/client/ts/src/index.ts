import { Client } from './client.js';
import { open } from './link.js';
import type { Options, Weft } from './types.js';

export { WeftError } from './errors.js';
export type {
  Address,
  AnyMessage,
  Events,
  Failed,
  Gap,
  Handler,
  Message,
  Options,
  Socket,
  SocketConstructor,
  Status,
  Store,
  TokenReason,
  Weft,
} from './types.js';

/**
 * Connects this page as a device of the token's user, and keeps it connected until close(). Messages go to the handlers that
 * are there when they come: register them in the same turn as connect(), since a message without a handler counts as handled.
 *
 * T maps the message types to the types of their payloads: `connect<{ 'order.paid': Order }>(…)`. Throws a TypeError when the
 * options can never work.
 */
export function connect<T = Record<string, any>>(options: Options): Weft<T> {
  return new Client(options, (sink) => open(options, sink)) as unknown as Weft<T>;
}
