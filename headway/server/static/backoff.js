// Retry delays. Pure: the random source is an argument.

const FIRST_DELAY = 500;
const MAX_DELAY = 30_000;

/**
 * After 1012 (the server restarts): all viewers were disconnected within one second, and each
 * handshake costs the server CPU time (web-facts#handshake-cost).
 */
const RESTART_DELAY = 5_000;
/** After 1013 and 4429 (too many viewers): returning quickly would be refused again. */
const OVERLOAD_DELAY = [5_000, 30_000];

/**
 * Milliseconds until the next try: random, between zero and a bound that doubles with each failure,
 * so that clients that were disconnected together do not return together.
 *
 * @param {number} failures failures since the last success, starts at 0
 * @param {number} [code] the close code of the socket, if there was one
 * @param {() => number} [random]
 */
export function backoff(failures, code, random = Math.random) {
  const bound = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** failures);
  if (code === 1013 || code === 4429) {
    const [least, most] = OVERLOAD_DELAY;
    return least + random() * (most - least);
  }
  return random() * (code === 1012 ? Math.max(RESTART_DELAY, bound) : bound);
}
