// Headway in a browser: `<script type="module" src=".../headway.js">` defines <headway-progress>, and scripts import the rest.

import { HeadwayProgress } from "./progress.js";
import { serverOf } from "./server.js";

export { HeadwayError } from "./server.js";
export { watch } from "./watch.js";
export { PHASES, amount, bytes, count, duration, percent, rate, timeLeft } from "./words.js";
export { HeadwayProgress };

/**
 * Call the API, with the token.
 *
 * @param {string | URL} path below the API, from its slash on: `/executions?limit=20`; a URL is taken as it is
 * @param {object} [options] those of `fetch`, and `json` (a body; makes it a POST), `timeout` (milliseconds, 0: none), `base`,
 *   `token`
 * @returns {Promise<any>} the body as data, null where there is none
 * @throws {HeadwayError}
 */
export function api(path, { base, token, ...options } = {}) {
  return serverOf(base, token).body(path, options);
}

/** Send this token from now on, in all of the page's calls and watches of the server; null: none. */
export function setToken(token, { base } = {}) {
  serverOf(base).token = token || undefined;
}

// A page that has the module from two servers keeps the first one's element: a name can be given once.
if (!customElements.get("headway-progress")) customElements.define("headway-progress", HeadwayProgress);
