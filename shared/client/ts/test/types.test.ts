// What the compiler knows. tsc checks it; there is little to run.

import { expect, expectTypeOf, test } from 'vitest';

import type { Failed, Gap, Message, Status, Weft } from '../src/types.js';

interface Order {
  total: number;
}

type Types = { 'order.paid': Order; 'user.renamed': string };

test('payloads have the types of their messages', () => {
  const check = (weft: Weft<Types>, any: Weft) => {
    weft.on('order.paid', ({ data, type }) => {
      expectTypeOf(data).toEqualTypeOf<Order>();
      expectTypeOf(type).toEqualTypeOf<'order.paid'>();
    });
    weft.on('*', (m) => {
      if (m.type === 'user.renamed') expectTypeOf(m.data).toEqualTypeOf<string>();
    });
    // @ts-expect-error: a type that was not declared
    weft.on('order.payed', () => {});
    // @ts-expect-error: an event that there is not
    weft.listen('opened', () => {});
    weft.listen('status', (status) => expectTypeOf(status).toEqualTypeOf<Status>());
    weft.listen('gap', (gap) => expectTypeOf(gap).toEqualTypeOf<Gap>());
    weft.listen('failed', (failed) => {
      expectTypeOf(failed).toEqualTypeOf<Failed<Message<Order, 'order.paid'> | Message<string, 'user.renamed'>>>();
    });
    any.on('anything', ({ data }) => data.goes.without.saying);
  };
  expect(check).toBeInstanceOf(Function);
});
