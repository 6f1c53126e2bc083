// A way to a server that can be cut as a lost network cuts it: nothing arrives any more, and nobody is told.

import { connect, createServer } from 'node:net';

export class Line {
  #server;
  #ends = new Set();
  #cut = false;

  // lay opens a line to an http:// URL. `url` is what to use instead of it.
  static async lay(to) {
    const line = new Line();
    const { hostname, port } = new URL(to);
    line.#server = createServer((near) => line.#join(near, connect(Number(port), hostname)));
    await new Promise((resolve) => line.#server.listen(0, '127.0.0.1', resolve));
    line.url = `http://127.0.0.1:${line.#server.address().port}`;
    return line;
  }

  // cut loses what is under way and all that is sent from now on, for good: what was connected will never hear again.
  cut() {
    this.#cut = true;
    for (const end of this.#ends) {
      end.removeAllListeners('data').removeAllListeners('close');
      end.resume();
    }
  }

  // mend lets new connections through.
  mend() {
    this.#cut = false;
  }

  close() {
    for (const end of this.#ends) end.destroy();
    this.#server.close();
  }

  #join(near, far) {
    for (const [from, to] of [[near, far], [far, near]]) {
      this.#ends.add(from);
      from.on('error', () => {}); // what follows is close
      if (this.#cut) continue;
      from.on('data', (bytes) => to.write(bytes));
      from.on('close', () => to.destroy());
    }
  }
}
