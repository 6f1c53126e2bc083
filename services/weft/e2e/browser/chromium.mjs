// Chromium for the tests: Debian's, or the one that CHROMIUM names, with a fresh profile and without the background
// traffic that a browser makes on its own.

import { chromium } from 'playwright-core';

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
}

// faults collects what a page complains about: errors, refused files, broken policy. A test ends by asking for none.
// Sockets that break are no fault: losing them is what is tested.
export function faults(page) {
  const found = [];
  page.on('pageerror', (error) => found.push(`error: ${error.stack}`));
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().includes('WebSocket')) found.push(`console: ${message.text()}`);
  });
  return found;
}
