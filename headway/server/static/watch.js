// `watch()`: the function that pages call to follow one execution.

import { clientFor } from "./api-client.js";
import { connectionFor } from "./connection.js";

class Watcher {
  #handlers;
  #settle;
  stopped = false;

  constructor(handlers, background) {
    this.#handlers = handlers;
    this.background = background;
    this.done = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    // `onError` reports the same error: without `await` it must not be an unhandled rejection.
    this.done.catch(() => {});
  }

  /** Call a handler of the page. Its exceptions are the page's, and must not affect the others. */
  notify(name, ...args) {
    if (this.stopped) return;
    try {
      this.#handlers[name]?.(...args);
    } catch (error) {
      reportError(error);
    }
  }

  resolve(frame) { this.#settle.resolve(frame); }

  reject(error) { this.#settle.reject(error); }
}

/**
 * Follow an execution to its end. All watches of one server share one socket. A lost connection is
 * restored, and missed changes are reported afterwards. Each change is reported once, and the
 * terminal frame is never lost.
 *
 * @param {string} id
 * @param {object} [on] handlers, all optional
 * @param {(frame: object) => void} [on.onStatus] first; if status or phase changes; after a gap
 * @param {(frame: object) => void} [on.onStart] the status changed from pending to running
 * @param {(progress: object, frame: object) => void} [on.onProgress] a progress report
 * @param {(frame: object) => void} [on.onEnd] `completed`, `failed` or `cancelled`
 * @param {(error: HeadwayError) => void} [on.onError] with `final`, the watch has ended; otherwise
 *   it continues automatically
 * @param {(state: string) => void} [on.onConnection] "connecting", "live", "polling", "lost"
 * @param {{token?: string, base?: string, background?: boolean}} [options] `base`: another server's
 *   API, such as `https://other.example/api/v1`; `background`: continue while the page is hidden
 * @returns {{stop: () => void, done: Promise<object | null>}} `done` resolves to the last frame, or
 *   to null after `stop`; it rejects if the execution cannot be watched
 */
export function watch(id, on = {}, { token, base, background = false } = {}) {
  if (typeof id !== "string" || !id) throw new TypeError("watch() needs the id of an execution");
  const connection = connectionFor(clientFor(base, token));
  const watcher = new Watcher(on, background);
  let execution = null;
  // Deferred: handlers must not run before the caller has the returned object.
  queueMicrotask(() => {
    if (!watcher.stopped) execution = connection.subscribe(id, watcher);
  });
  return {
    done: watcher.done,
    stop() {
      if (watcher.stopped) return;
      watcher.stopped = true;
      if (execution) connection.unsubscribe(execution, watcher);
      watcher.resolve(null);
    },
  };
}
