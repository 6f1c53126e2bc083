/** What the server refused, or why a connection ended. */
export class WeftError extends Error {
  /** One stable word: `forbidden`, `replaced`, `token_expired`, … as in the server's answers. */
  declare readonly code: string;
  /** The same may succeed later. */
  declare readonly retry: boolean;
  /** The member that was wrong. */
  declare readonly field: string | undefined;
  /** The WebSocket's close code, where one ended the connection. */
  declare readonly close: number | undefined;

  /** message is one sentence for a person: what was wrong and what to do. */
  constructor(code: string, message: string, retry = false, field?: string, close?: number) {
    super(message);
    Object.assign(this, { name: 'WeftError', code, retry, field, close });
  }
}
