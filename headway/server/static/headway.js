// Headway in the browser: `<script type="module" src=".../headway.js">` defines <headway-progress>;
// scripts import the functions below.

import { clientFor } from "./api-client.js";
import { HeadwayProgress } from "./element.js";

export { HeadwayError } from "./api-client.js";
export { PHASES, amount, bytes, count, duration, percent, rate, timeLeft } from "./format.js";
export { watch } from "./watch.js";
export { HeadwayProgress };

/**
 * Call the API with the token.
 *
 * @param {string | URL} path relative to the API, with its leading slash: `/executions?limit=20`;
 *   a URL is used as it is
 * @param {object} [options] the options of `fetch`, and `json` (a body; makes it a POST), `timeout`
 *   (milliseconds, 0: none), `base`, `token`
 * @returns {Promise<any>} the parsed body, null if there is none
 * @throws {HeadwayError}
 */
export function api(path, { base, token, ...options } = {}) {
  return clientFor(base, token).fetchJson(path, options);
}

/** Use this token for all further calls and watches of the page on this server; null: none. */
export function setToken(token, { base } = {}) {
  clientFor(base).token = token || undefined;
}

// If a page loads the module from two servers, the first definition stays: an element name can be
// defined only once.
if (!customElements.get("headway-progress")) {
  customElements.define("headway-progress", HeadwayProgress);
}
