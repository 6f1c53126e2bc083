// What a person does on the demo page, and what the page says it received.

import { faults } from './chromium.mjs';

export class Person {
  constructor(page) {
    this.page = page;
    this.faults = faults(page);
  }

  // open brings a new device to the login of the server at base. A context is a browser of its own: nothing is shared.
  static async open(context, base) {
    const person = new Person(await context.newPage());
    await person.page.goto(`${base}/demo`);
    return person;
  }

  async logIn(user, { topics = [] } = {}) {
    await this.page.fill('#user', user);
    await this.page.fill('#topics', topics.join(', '));
    await this.page.click('#login-form button.primary');
    await this.online();
  }

  online() {
    return this.page.waitForSelector('[data-state=online]');
  }

  async goOffline() {
    await this.page.click('#switch');
    await this.page.waitForSelector('[data-state=offline]');
  }

  async goOnline() {
    await this.page.click('#switch');
    await this.online();
  }

  // received waits until the page has n messages (that pass the filter) and gives them with their hashes. It waits for a
  // moment longer than it needs to only when one is missing.
  async received(n, { within = 30_000, idEnds = '' } = {}) {
    const count = ([wanted, end]) => weftDemo.messages.filter(({ id }) => id.endsWith(end)).length >= wanted;
    await this.page.waitForFunction(count, [n, idEnds], { timeout: within }).catch((error) => {
      if (error.name !== 'TimeoutError') throw error; // what is missing is told by whoever compares
    });
    return this.page.evaluate(async (end) => {
      await weftDemo.settled();
      return weftDemo.messages.filter(({ id }) => id.endsWith(end));
    }, idEnds);
  }

  counts() {
    return this.page.evaluate(() => weftDemo.counts);
  }

  // acknowledged waits until the page shows that everything of an address up to seq is acknowledged.
  acknowledged(ch, seq) {
    const shown = ([name, text]) =>
      [...document.querySelectorAll('#mailboxes li')].some((item) => item.querySelector('.ch').textContent === name && item.querySelector('.place').textContent.endsWith(`acknowledged ${text}`));
    return this.page.waitForFunction(shown, [ch, new Intl.NumberFormat('en').format(seq)]);
  }

  // holds waits until the page says this of the tabs and the connection.
  holds(words) {
    return this.page.waitForFunction((wanted) => document.querySelector('#tabs').textContent === wanted, words);
  }

  // entered waits until the server has answered for n mailboxes.
  entered(n) {
    return this.page.waitForFunction((wanted) => document.querySelectorAll('#mailboxes progress:not([hidden])').length === wanted, n);
  }

  async reload() {
    await this.page.reload();
    await this.online();
  }

  screenshot(name) {
    const path = new URL(`artifacts/${name}.png`, import.meta.url).pathname;
    return this.page.screenshot({ path });
  }
}
