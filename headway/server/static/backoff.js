// When to try again. Pure: chance is an argument.

const FIRST = 500;
const MOST = 30_000;

/** 1012, the server is restarting: all its viewers were sent away in one second, and a handshake is dear (web fact 11). */
const RESTART = 5_000;
/** 1013 and 4429, there are too many of us: a quick return is what they were refused for. */
const CROWDED = [5_000, 30_000];

/**
 * Milliseconds until the next try: anything from nothing to a bound that doubles with each failure, so that those who were cut
 * off together don't come back together.
 *
 * @param {number} tries how often it has failed since it last worked, starts at 0
 * @param {number} [code] the close code, where a socket was closed
 * @param {() => number} [random]
 */
export function backoff(tries, code, random = Math.random) {
  const bound = Math.min(MOST, FIRST * 2 ** tries);
  if (code === 1013 || code === 4429) return CROWDED[0] + random() * (CROWDED[1] - CROWDED[0]);
  return random() * (code === 1012 ? Math.max(RESTART, bound) : bound);
}
