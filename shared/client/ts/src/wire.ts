// The objects of weft.v1.json and the few encodings that a client needs.

import type { WireMessage } from './types.js';

export const PROTOCOL = 'weft.v1.json';
export const CLIENT = 'weft-ts/0.1';
const PATH = '/v1/ws';

export interface Mailbox {
  readonly head: number;
  readonly next: number;
}

/** Any object of the server; `t` says which members count. */
export interface FromServer extends WireMessage {
  readonly t: string;
  readonly ch?: string;
  readonly from?: number;
  readonly to?: number;
  readonly why?: string;
  readonly user: string;
  readonly epoch: string;
  readonly heartbeat: number; // ms
  readonly mailboxes: Record<string, Mailbox>;
  readonly within: number; // ms
  readonly code: string;
  readonly message: string;
  readonly field?: string;
  readonly retry?: boolean;
}

/**
 * Reads one object. The text of a payload is cut out of the line as it was published. Inside a JSON string a quote is escaped,
 * so the mark can't stand in an earlier member.
 */
export function decode(line: string): FromServer {
  const object = JSON.parse(line);
  const mark = ',"data":';
  if ('data' in object) object.text = line.slice(line.indexOf(mark) + mark.length, -1);
  return object;
}

/** base64url without padding, as subprotocols can carry it. Tokens are ASCII, as in HTTP headers. */
export const base64url = (text: string) => btoa(text).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

/**
 * What a token says of itself, unverified; nothing when it is no JWT. Its texts are good for telling them apart, not for
 * people: they are not decoded from UTF-8.
 */
export function claims(token: string): { sub?: string; tenant?: string; exp?: number } {
  try {
    return JSON.parse(atob(token.split('.')[1]!.replaceAll('-', '+').replaceAll('_', '/')));
  } catch {
    return {};
  }
}

/** The WebSocket URL of a push node. Throws a TypeError when it is no URL. */
export function endpoint(url: string): string {
  const to = new URL(url, globalThis.location?.href);
  to.protocol = to.protocol.replace('http', 'ws');
  if (to.pathname === '/') to.pathname = PATH;
  return to.href;
}
