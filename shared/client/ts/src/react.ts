'use client';

// React hooks. A component gets a Weft that stands for the connection: it can be used at once, also where nothing is ever
// connected (on a server), and stays the same while connections come and go.

import { createContext, createElement, type ReactNode, useCallback, useContext, useEffect, useRef, useState, useSyncExternalStore } from 'react';

import { connect } from './index.js';
import type { Events, Message, Options, Status, Weft } from './types.js';
import { claims } from './wire.js';

const LIMIT = 100;
// How long nobody has to use a connection before it is closed, in ms. React mounts, unmounts and mounts again in one go.
const LINGER = 100;

type Types = Record<string, any>;
type Listen = { readonly event: 'on' | 'listen'; readonly name: string; readonly call: (what: any) => unknown; off?: (() => void) | undefined };

const Context = createContext<Weft<any> | undefined>(undefined);

export type WeftProviderProps = { readonly children?: ReactNode } & (
  | (Options & { readonly weft?: undefined })
  | { readonly weft: Weft<any> }
);

/**
 * Connects while it is mounted, and gives the connection to useWeft and useMessages below it. Options may be made anew for
 * each rendering: another url, device or user is another connection; other topics are subscribed to and unsubscribed from;
 * the latest token, or function, is used when the next one is needed. With `weft` it passes on what connect() has returned,
 * and does not close it.
 */
export function WeftProvider(props: WeftProviderProps): ReactNode {
  const made = useHandle(props.weft ? undefined : (props as Options));
  return createElement(Context.Provider, { value: props.weft ?? made }, props.children);
}

/** The connection of the WeftProvider above, and where it stands now. `weft` is the same object in each rendering. */
export function useWeft<T = Types>(): { readonly weft: Weft<T>; readonly status: Status } {
  const weft = useContext(Context);
  if (!weft) throw new Error('useWeft and useMessages need a <WeftProvider> above them');
  const subscribe = useCallback((changed: () => void) => weft.listen('status', changed), [weft]);
  const status = useSyncExternalStore(subscribe, () => weft.status, () => CONNECTING);
  return { weft, status };
}

/**
 * The last messages of a type, or of all types, oldest first: what has come since this component was mounted, at most
 * `limit` (100). D is the type of their payloads. To do something with each message, register a handler in an effect:
 * `useEffect(() => weft.on('order.paid', handle), [weft])`.
 */
export function useMessages<D = any>(type = '*', { limit = LIMIT }: { readonly limit?: number } = {}): readonly Message<D>[] {
  const { weft } = useWeft();
  const [log, setLog] = useState(() => new Log(weft, type));
  const right = log.weft === weft && log.type === type ? log : new Log(weft, type);
  if (right !== log) setLog(right);
  useEffect(() => {
    right.limit = limit;
  });
  const messages = useSyncExternalStore(right.subscribe, () => right.messages, () => NONE);
  return last(messages, limit);
}

const CONNECTING: Status = { state: 'connecting' };
const NONE: readonly Message[] = [];

const last = (messages: readonly Message[], n: number) => (messages.length > n ? messages.slice(messages.length - n) : messages);

/** The last messages of a type. */
class Log {
  messages: readonly Message[] = NONE;
  limit = LIMIT;

  constructor(
    readonly weft: Weft,
    readonly type: string,
  ) {}

  subscribe = (changed: () => void): (() => void) =>
    this.weft.on(this.type, (message) => {
      this.messages = last([...this.messages, message], this.limit);
      changed();
    });
}

// useHandle is a Weft for some options, connected while the component is mounted.
function useHandle(options: Options | undefined): Weft | undefined {
  const key = options && keyOf(options);
  const [handle, setHandle] = useState(() => options && new Handle(key!, options));
  const right = handle?.key === key ? handle : options && new Handle(key!, options);
  if (right !== handle) setHandle(right);
  useEffect(() => {
    if (options) right!.update(options);
  });
  const held = useRef<Handle>(undefined);
  useEffect(() => {
    if (held.current !== right) held.current?.end();
    held.current = right;
    return right?.hold();
  }, [right]);
  return right;
}

// keyOf says which connection options mean.
function keyOf({ url, device, shared, ack, onError, token }: Options): string {
  const { sub, tenant } = typeof token === 'string' ? claims(token) : {};
  const user = sub ? [tenant, sub] : typeof token === 'string' && token;
  return JSON.stringify([url, device, shared, ack, onError, user]);
}

/** Stands for a Weft before it is made and after it was closed. */
class Handle implements Weft {
  readonly key: string;
  #options: Options;
  #weft: Weft | undefined;
  #made!: (weft: Weft) => void;
  #ready = new Promise<Weft>((resolve) => (this.#made = resolve));
  #listeners = new Set<Listen>();
  #topics: Set<string>;
  #holders = 0;
  #linger: ReturnType<typeof setTimeout> | undefined;

  constructor(key: string, options: Options) {
    this.key = key;
    this.#options = options;
    this.#topics = new Set(options.topics);
  }

  get status(): Status {
    return this.#weft?.status ?? CONNECTING;
  }

  get device(): string {
    return this.#weft?.device ?? this.#options.device ?? '';
  }

  on(name: string, call: (message: any) => unknown): () => void {
    return this.#add({ event: 'on', name, call });
  }

  listen<E extends keyof Events>(name: E, call: (what: Events[E]) => void): () => void {
    return this.#add({ event: 'listen', name, call });
  }

  async *messages(): AsyncIterableIterator<Message> {
    yield* (await this.#ready).messages();
  }

  async subscribe(...topics: string[]): Promise<void> {
    for (const topic of topics) this.#topics.add(topic);
    await (this.#weft ?? (await this.#ready)).subscribe(...topics);
  }

  async unsubscribe(...topics: string[]): Promise<void> {
    for (const topic of topics) this.#topics.delete(topic);
    await (this.#weft ?? (await this.#ready)).unsubscribe(...topics);
  }

  close(): void {
    this.#weft?.close();
  }

  /** Connects, if it is not connected. Returns what ends it, once nobody holds it any more. */
  hold(): () => void {
    clearTimeout(this.#linger);
    this.#holders++;
    this.#weft ??= this.#connect();
    return () => {
      if (!--this.#holders) this.#linger = setTimeout(() => this.end(), LINGER);
    };
  }

  /** Closes the connection, whoever holds it. */
  end(): void {
    clearTimeout(this.#linger);
    this.#weft?.close();
    this.#weft = undefined;
    for (const listener of this.#listeners) listener.off = undefined;
  }

  /** Takes the options of the latest rendering. */
  update(options: Options): void {
    const before = this.#options.topics ?? [];
    const topics = options.topics ?? [];
    this.#options = options;
    const fresh = topics.filter((topic) => !before.includes(topic));
    const left = before.filter((topic) => !topics.includes(topic));
    // That it was closed meanwhile is told by its status.
    if (fresh.length) this.subscribe(...fresh).catch(() => {});
    if (left.length) this.unsubscribe(...left).catch(() => {});
  }

  #connect(): Weft {
    const token: Options['token'] = (reason) => {
      const { token } = this.#options;
      return typeof token === 'string' ? token : token(reason);
    };
    const weft = connect({ ...this.#options, topics: [...this.#topics], token });
    for (const listener of this.#listeners) this.#attach(listener, weft);
    this.#made(weft);
    return weft;
  }

  #add(listener: Listen): () => void {
    this.#listeners.add(listener);
    if (this.#weft) this.#attach(listener, this.#weft);
    return () => {
      this.#listeners.delete(listener);
      listener.off?.();
    };
  }

  #attach(listener: Listen, weft: Weft): void {
    const { event, name, call } = listener;
    listener.off = event === 'on' ? weft.on(name, call) : weft.listen(name as keyof Events, call);
  }
}
