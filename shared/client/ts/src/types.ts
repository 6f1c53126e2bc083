// How the parts fit together.
//
//                 Sink: begin, take, status, error
//   Connection ─────────────────────────────────────▶ Client ──▶ your handlers
//              ◀─────────────────────────────────────
//                 Link: want, ack, close
//
// Connection (connection.ts) is one WebSocket after another: token, hello, welcome, watchdog, back-off, drain, close codes. It
// owns the cursors, which are in the store before they are acknowledged. It hands out items of a mailbox in order and
// without a hole, but may repeat them: after a reconnect the server sends again whatever was not acknowledged.
//
// Client (client.ts) is what connect() returns. It knows what the handlers of one page have been given and have settled: it
// drops what it has handed over before, calls handlers, tries them again, and says `ack` whenever the settled part of a
// mailbox has grown without a hole.
//
// Several tabs can share one connection because everything that crosses this seam is plain data that survives
// structuredClone: the tab that leads has the Connection and its store, and every tab (the leader too) has a Client. What
// stands in between must do three things: repeat Sink's calls to all tabs, in their order; ack to the Connection the
// lowest of what the tabs have acknowledged; want the union of the topics that the tabs want. link.ts decides what a
// Client talks to.

// ---- what users of the package see

/** The mailbox that a message is in: `user:42`, `topic:news` or `all`. */
export type Address = string;

/**
 * Why a token is needed: for a first connection (`connect`), because the last one has expired or is about to (`expired`),
 * or because the server refused a fresh one too (`rejected`).
 */
export type TokenReason = 'connect' | 'expired' | 'rejected';

/**
 * What remembers how far this device has come; localStorage is one. A store that throws is not asked again: the page goes on
 * with its memory, and after a reload with what the server knows.
 */
export interface Store {
  getItem(key: string): string | null | undefined;
  setItem(key: string, value: string): void;
  removeItem?(key: string): void;
}

export interface Options {
  /**
   * A push node, `https://host` or `wss://host/v1/ws`; a path is only added where there is none, and in a browser the URL may
   * be relative to the page. With several, one after the other is tried, from a random one on.
   */
  url: string | readonly string[];
  /**
   * The token, or a function that gets one. It is called when a token is needed: not for every connection, but when there is
   * none, when the last one is about to expire and when the server refuses it. When it fails it is called again later.
   */
  token: string | ((reason: TokenReason) => string | Promise<string>);
  /**
   * Names this installation among those of the user: the server remembers what each device has acknowledged and allows it
   * one connection. Made up once and kept in localStorage when absent.
   */
  device?: string;
  /** Topics to subscribe to, without `topic:`. */
  topics?: readonly string[];
  /** Where the cursors are kept; localStorage, or memory where there is none. */
  store?: Store;
  /**
   * What happens to a message whose handler has failed six times. `skip`, the default, passes it over. `stop` holds it, and
   * everything behind it in its mailbox, until its ack() is called or the page is loaded again; handlers then get the
   * messages of a mailbox strictly one after the other.
   */
  onError?: 'skip' | 'stop';
  /** `auto`, the default: a message is handled when its handlers have settled. `manual`: when its ack() has been called. */
  ack?: 'auto' | 'manual';
  /** `false` gives this tab a connection and a device of its own. */
  shared?: boolean;
  /** The WebSocket to use where there is no global one, or in tests. */
  WebSocket?: SocketConstructor;
}

/** A message as handlers get it. `D` is its payload's type, `N` its own. */
export interface Message<D = any, N extends string = string> {
  readonly to: Address;
  /** Its place in the mailbox: 1, 2, 3 … without holes; 0 for a live message. */
  readonly seq: number;
  /** The publisher's id. */
  readonly id: string;
  /** The publisher's word for what happened; may be empty. */
  readonly type: N;
  /** When it was accepted, in ms since 1970. */
  readonly at: number;
  readonly contentType: string;
  /** The payload if it is JSON, else undefined. */
  readonly data: D;
  /** The payload exactly as it was published, where it came as text: JSON without line breaks. */
  readonly text: string | undefined;
  /** The payload's bytes, where it came as bytes: all the others. */
  readonly bytes: Uint8Array<ArrayBuffer> | undefined;
  /** It was sent again by an operator, as a new message. */
  readonly again: boolean;
  /** It is of the class `live`: not stored, not numbered, not acknowledged. */
  readonly live: boolean;
  /** W3C trace context; may be empty. */
  readonly traceparent: string;
  /** Counts the message as handled, whatever its handlers do. Needed with `ack: 'manual'`; does nothing the second time. */
  ack(): void;
}

/** A handler; the message counts as handled when what it returns has settled. One that throws or rejects is called again. */
export type Handler<M> = (message: M) => unknown;

/** Some sequences of a mailbox will not come. */
export interface Gap {
  readonly to: Address;
  readonly first: number;
  readonly last: number;
  /**
   * `epoch`: the archive was restored from a backup and numbers anew; the gap then is what lies before this device's new
   * start. `away`: other tabs have acknowledged what came while this one was not there, and none remembers it.
   */
  readonly why: 'expired' | 'superseded' | 'deleted' | 'quarantined' | 'retention' | 'epoch' | 'away' | (string & {});
}

/**
 * Where the connection stands. `waiting` for the next attempt at `retryAt` (ms since 1970), `closed` for good. `code` is the
 * WebSocket's close code and `reason` a word or sentence, both of what ended the last connection.
 */
export interface Status {
  readonly state: 'connecting' | 'open' | 'waiting' | 'closed';
  readonly retryAt?: number | undefined;
  readonly code?: number | undefined;
  readonly reason?: string | undefined;
  /** Of tabs that share a connection: whether it is this one that holds it. */
  readonly leads?: boolean;
}

/** A handler has failed for the last time. With `onError: 'stop'` the message's ack() lets its mailbox go on. */
export interface Failed<M = Message> {
  readonly message: M;
  readonly error: unknown;
}

/** What listen() can tell. */
export interface Events<M = Message> {
  status: Status;
  gap: Gap;
  failed: Failed<M>;
  /** Something went wrong and was or will be tried again; a WeftError when the server said so. */
  error: Error;
}

/** The message types that are declared in T, told apart by `type`. */
export type AnyMessage<T> = { [N in keyof T & string]: Message<T[N], N> }[keyof T & string];

/** One device of one user; what connect() returns. T maps message types to the types of their payloads. */
export interface Weft<T = Record<string, any>> {
  /** Where the connection stands now; listen('status') tells of changes. */
  readonly status: Status;
  /** The device's id: the one given, or the one that was made up. Empty until it is known. */
  readonly device: string;
  /** Calls handler with each message of a type, or of all types. Returns a function that ends it. */
  on(type: '*', handler: Handler<AnyMessage<T>>): () => void;
  on<N extends keyof T & string>(type: N, handler: Handler<Message<T[N], N>>): () => void;
  /** Calls listener when something happens that is no message. Returns a function that ends it. */
  listen<E extends keyof Events>(event: E, listener: (what: Events<AnyMessage<T>>[E]) => void): () => void;
  /**
   * All messages, one at a time. A message is handled when the loop asks for the next one or ends. What was read ahead by then
   * (at most what the server sends without acknowledgement) waits for the next loop and is not acknowledged.
   * The loop ends with close(), and throws a WeftError when the server closed for good.
   */
  messages(): AsyncIterableIterator<AnyMessage<T>>;
  /** Resolves once the server has subscribed this device; rejects with a WeftError when the connection is closed for good. */
  subscribe(...topics: string[]): Promise<void>;
  unsubscribe(...topics: string[]): Promise<void>;
  /** Acknowledges what was handled and ends the connection. What was not handled comes again on the next one. */
  close(): void;
}

/** As much of a WebSocket as is used. */
export interface Socket {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: { data: any }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type SocketConstructor = new (url: string, protocols: string[]) => Socket;

// ---- the seam between Connection and Client

/** A `msg` object of the wire, plus `text`: its payload as it was published, where that came as JSON. */
export interface WireMessage {
  readonly seq?: number;
  readonly id: string;
  readonly type?: string;
  readonly at: number;
  readonly content_type?: string;
  readonly traceparent?: string;
  readonly re?: boolean;
  readonly live?: boolean;
  readonly data?: unknown;
  readonly text?: string;
  readonly data64?: string;
}

/** A message, or a gap where there is a why: the sequences first to last of a mailbox. A live message has the sequence 0. */
export interface Item {
  readonly to: Address;
  readonly first: number;
  readonly last: number;
  readonly msg?: WireMessage | undefined;
  readonly why?: string | undefined;
}

/** What a Client is told, in order. */
export interface Sink {
  /**
   * A session has begun, or has got more or fewer mailboxes. `cursors` are the mailboxes it has: what comes next of each is at
   * most one above its cursor, perhaps lower. `series` names the numbering: when it is another one than before, everything
   * that is known of sequences is void (another epoch, another user, a cursor above the head).
   */
  begin(series: string, cursors: Readonly<Record<Address, number>>): void;
  /** Items of the mailboxes in `cursors`, in the order of each: what one WebSocket message held. */
  take(items: readonly Item[]): void;
  /** After `closed` nothing comes any more. */
  status(status: Status): void;
  error(error: Error): void;
}

/** What a Client says. */
export interface Link {
  readonly device: string;
  /**
   * The topics that are wanted from now on, all of them. Resolves once the server serves exactly those mailboxes, now or
   * after a reconnect; rejects when the link is closed before. A later want resolves an earlier one.
   */
  want(topics: readonly string[]): Promise<void>;
  /** Everything of a mailbox up to seq has been handled, in the series of the last begin. */
  ack(to: Address, seq: number): void;
  /** Acknowledges what is to be acknowledged and ends. The sink is told `closed`. */
  close(): void;
}
