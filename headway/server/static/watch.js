// Follow one execution: what a page calls.

import { linkOf } from "./link.js";
import { serverOf } from "./server.js";

class Watcher {
  #on;
  #settle;
  stopped = false;

  constructor(on, background) {
    this.#on = on;
    this.background = background;
    this.done = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    this.done.catch(() => {}); // `onError` tells it too: who doesn't await it shall not find an unhandled rejection
  }

  /** Call the page's own function; what that throws is the page's, and may not cut off the others. */
  tell(name, ...args) {
    if (this.stopped) return;
    try {
      this.#on[name]?.(...args);
    } catch (error) {
      reportError(error);
    }
  }

  end(frame) { this.#settle.resolve(frame); }

  fail(error) { this.#settle.reject(error); }
}

/**
 * Follow an execution to its end. However many are watched, they share one socket for each server; a lost connection is made again,
 * with what was missed; each thing is told once, and an end is never lost.
 *
 * @param {string} id
 * @param {object} [on] each is optional
 * @param {(frame: object) => void} [on.onStatus] first of all, where status or phase changes, and after a gap
 * @param {(frame: object) => void} [on.onStart] pending has become running
 * @param {(progress: object, frame: object) => void} [on.onProgress] a report
 * @param {(frame: object) => void} [on.onEnd] `completed`, `failed` or `cancelled`
 * @param {(error: HeadwayError) => void} [on.onError] with `final`: it can't be watched, that was all; else it goes on by itself
 * @param {(state: string) => void} [on.onConnection] "connecting", "live", "polling", "lost"
 * @param {{token?: string, base?: string, background?: boolean}} [options] `base` is another server's API, such as
 *   `https://other.example/api/v1`; with `background` it goes on while nobody sees the page
 * @returns {{stop: () => void, done: Promise<object | null>}} `done` is the last frame, null after `stop`; it rejects where the
 *   execution can't be watched
 */
export function watch(id, on = {}, { token, base, background = false } = {}) {
  if (typeof id !== "string" || !id) throw new TypeError("watch() wants the id of an execution");
  const link = linkOf(serverOf(base, token));
  const watcher = new Watcher(on, background);
  let subject = null;
  // Not at once: whoever is told something must have what this returns.
  queueMicrotask(() => { if (!watcher.stopped) subject = link.join(id, watcher); });
  return {
    done: watcher.done,
    stop() {
      if (watcher.stopped) return;
      watcher.stopped = true;
      if (subject) link.leave(subject, watcher);
      watcher.end(null);
    },
  };
}
