// What tabs say to each other; tabs.ts tells when.

import type { Address, Item, Status } from './types.js';

export type Cursors = Readonly<Record<Address, number>>;

/** What the leader says: to one tab, or to all. */
export type Order = { readonly term: number; readonly tab?: string } & (
  | { readonly t: 'lead' }
  | { readonly t: 'begin'; readonly series: string; readonly cursors: Cursors }
  | { readonly t: 'items'; readonly items: readonly Item[] }
  | { readonly t: 'status'; readonly status: Status }
  | { readonly t: 'error'; readonly error: unknown }
  | { readonly t: 'served'; readonly want: number }
  | { readonly t: 'ask' | 'here' }
);

/** What a tab says to the leader. `want` counts what the tab has wanted. */
export type Report = { readonly from: string } & (
  | { readonly t: 'join'; readonly term: number; readonly series: string; readonly acked: Cursors; readonly topics: readonly string[]; readonly want: number }
  | { readonly t: 'want'; readonly topics: readonly string[]; readonly want: number }
  | { readonly t: 'acks'; readonly series: string; readonly acked: Cursors }
  | { readonly t: 'call' | 'ask' | 'here' | 'bye' }
);

/** A term after another one. No two are the same, though two tabs may lead shortly after each other and not know it. */
export const after = (term: number) => Math.floor(term) + 1 + Math.random();

/** How often a tab that is waited for is asked whether it is there, in ms; it may leave MISSES of them unanswered. */
export const BEAT = 5_000;
export const MISSES = 3;

/** Whether a tab with these topics has a mailbox. */
export function has(topics: readonly string[], to: Address): boolean {
  return !to.startsWith('topic:') || topics.includes(to.slice('topic:'.length));
}
