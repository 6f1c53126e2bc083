// nats/asyncapi.yaml against the JSON schema of AsyncAPI 3. What it says of the fabric is checked in Go, beside this
// folder.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import Ajv from 'ajv';
import { parse } from 'yaml';

const schema = createRequire(import.meta.url)('@asyncapi/specs/schemas/3.0.0.json');
const page = () => parse(readFileSync(new URL('../../../../nats/asyncapi.yaml', import.meta.url), 'utf8'));

// The schema brings the meta-schema of draft 7 with it; Ajv must not add its own.
const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false, meta: false, validateSchema: false });
const validate = ajv.compile(schema);
const faults = (document) => (validate(document) ? [] : validate.errors.map(({ instancePath, message }) => `${instancePath} ${message}`));

test('asyncapi.yaml is a document of AsyncAPI 3', () => {
  assert.deepEqual(faults(page()), []);
});

test('the schema sees what is wrong', () => {
  const wrong = page();
  wrong.operations.say.action = 'shout';
  assert.match(faults(wrong).join('\n'), /^\/operations\/say\/action must be equal to one of the allowed values$/m);
});
