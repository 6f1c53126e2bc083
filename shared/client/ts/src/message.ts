// A message as handlers get it.

import type { Item, Message } from './types.js';

/** Reads a message. ack is what its ack() does. */
export function messageOf({ to, first, msg }: Item, ack: () => void): Message {
  const { id, type = '', at, content_type: contentType = 'application/json', traceparent = '', re = false, live = false } = msg!;
  const { text, data64 } = msg!;
  const bytes = data64 === undefined ? undefined : Uint8Array.from(atob(data64), (c) => c.charCodeAt(0));
  // JSON with line breaks inside travels as bytes, because a line break separates objects.
  const data = bytes && /^(application\/|[^;]+\+)json *(;|$)/i.test(contentType) ? JSON.parse(new TextDecoder().decode(bytes)) : msg!.data;
  return { to, seq: first, id, type, at, contentType, data, text, bytes, again: re, live, traceparent, ack };
}
