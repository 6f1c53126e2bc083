// The payloads of the demo: real GitHub webhooks, from the examples that the Octokit project keeps (MIT). Printed as
// one JSON object per line: {to, id, type, payload}, payload being the text to publish, byte for byte.
//
//   node payloads.mjs | head -1
//
// Each payload goes to the mailbox of its sender and to the topic of its repository. The few that have neither, GitHub's
// security advisories, concern everybody and go to `all`. A handful is printed over several lines as well, as people
// do, for `dependabot[bot]`: line breaks travel another way than the rest.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const events = createRequire(import.meta.url)('@octokit/webhooks-examples');
const PRETTY = 5;

// messages lists what there is to publish, in an order that is the same every time, with ids that are, too.
export function messages() {
  const all = events.flatMap(({ name, examples }) => examples.map((example, i) => message(name, example, i)));
  const compact = all.flatMap(({ to, ...rest }) => to.map((address) => ({ to: address, ...rest })));
  const pretty = all.slice(0, PRETTY).map(({ id, type, payload }) => ({
    to: 'user:dependabot[bot]',
    id: `${id}-pretty`,
    type,
    payload: `${JSON.stringify(JSON.parse(payload), null, 2)}\n`,
  }));
  return [...compact, ...pretty];
}

function message(name, example, index) {
  const { sender, repository, action } = example;
  const to = [sender && `user:${sender.login}`, repository && `topic:${repository.full_name}`].filter(Boolean);
  const type = ['github', name, action].filter(Boolean).join('.');
  return { to: to.length ? to : ['all'], id: `${name}-${index}`, type, payload: JSON.stringify(example) };
}

// The stream is ended by whoever reads it: `| head -1` is no error.
if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.stdout.on('error', (error) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  for (const line of messages()) process.stdout.write(`${JSON.stringify(line)}\n`);
}
