// One Headway server, over HTTP: where it is, with which token it is asked, and what its errors mean.

/** What HTTP says in numbers, in the words of the stream's `error` frames. */
const CODES = {
  401: "not_authenticated", 403: "not_allowed", 404: "not_found", 409: "conflict", 410: "expired", 422: "invalid",
  429: "too_many", 503: "unavailable",
};

/** After these asking again gives the same answer. */
const FINAL = new Set(["not_authenticated", "not_allowed", "not_found", "expired", "invalid"]);

/** Milliseconds that a call may take. */
const TIMEOUT = 15_000;

/** What went wrong, for a program (`code`) and for a person (`message`). */
export class HeadwayError extends Error {
  name = "HeadwayError";

  /**
   * @param {string} code `not_found`, `expired`, `not_allowed`, `not_authenticated`, `unavailable` (the server's own backend is
   *   away), `unreachable` (no answer at all), `too_many`, `conflict`, `invalid`, or `failed` for all else
   * @param {string} message
   * @param {{status?: number, retryAfter?: number}} [more] the HTTP status (0: none) and the seconds that the server asked for
   */
  constructor(code, message, { status = 0, retryAfter = 0 } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether it is no use to try again. */
  get final() { return FINAL.has(this.code); }
}

export const seconds = (response) => Number(response.headers.get("Retry-After")) || 0;

async function refusal(response) {
  const body = await response.json().catch(() => null); // a proxy's page, maybe
  const message = body?.detail ?? `The server answered ${response.status}.`;
  return new HeadwayError(CODES[response.status] ?? "failed", message, { status: response.status, retryAfter: seconds(response) });
}

export class Server {
  #token;
  #listeners = new Set();
  /** It has answered this page. */
  #reached = false;

  constructor(base, token) {
    this.base = base;
    this.#token = token;
  }

  get token() { return this.#token; }

  /** What was refused without it may be asked again: whoever listens is told. */
  set token(token) {
    if (token === this.#token) return;
    this.#token = token;
    this.#listeners.forEach((listener) => listener());
  }

  /** @returns {() => void} what ends the listening */
  onToken(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Fetch, with the token. A `path` that begins with a slash is below the API; a `URL` is taken as it is, and gets the token only
   * where it is on the same server.
   *
   * @returns {Promise<Response>} one that is 2xx or 304
   * @throws {HeadwayError}
   */
  async call(path, { json, timeout = TIMEOUT, signal, headers, ...options } = {}) {
    const url = path instanceof URL ? path : new URL(this.base + path);
    const sent = new Headers(headers);
    if (this.#token && url.origin === new URL(this.base).origin) sent.set("Authorization", `Bearer ${this.#token}`);
    if (json !== undefined) {
      sent.set("Content-Type", "application/json");
      options = { method: "POST", ...options, body: JSON.stringify(json) };
    }
    const signals = [signal, timeout ? AbortSignal.timeout(timeout) : null].filter(Boolean);
    let response;
    try {
      response = await fetch(url, { ...options, headers: sent, cache: "no-store", signal: AbortSignal.any(signals) });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw await this.#unreachable();
    }
    this.#reached = true;
    if (!response.ok && response.status !== 304) throw await refusal(response);
    return response;
  }

  /** A browser doesn't say whether another origin's server is down or doesn't want this page. Asked both ways, it shows. */
  async #unreachable() {
    const [there, here] = [new URL(this.base).origin, globalThis.location?.origin];
    const answers = (mode) => fetch(`${this.base}/healthz`, { mode, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) })
      .then(() => true, () => false);
    if (!this.#reached && there !== here && await answers("no-cors") && !await answers("cors")) {
      return new HeadwayError("not_allowed", `The server at ${there} doesn’t let pages of ${here} use it.`);
    }
    return new HeadwayError("unreachable", "The server can’t be reached.");
  }

  /** The body of a `call`; null where there is none. */
  async body(path, options) {
    const response = await this.call(path, options);
    try {
      return response.status === 204 ? null : await response.json();
    } catch {
      throw new HeadwayError("failed", "The server’s answer can’t be read.", { status: response.status });
    }
  }

  /** Where the socket for many is. It can't carry the token in a header, so it gets a short-lived ticket. */
  async socketUrl() {
    const url = new URL(`${this.base}/progress/ws`);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.#token) {
      const { ticket } = await this.body("/tickets", { json: {} });
      if (ticket) url.searchParams.set("ticket", ticket); // none where the server wants no token
    }
    return url;
  }
}

/** This module is served by the server that it talks to (web fact 24). */
const HOME = new URL(".", import.meta.url);

const servers = new Map();

function address(base) {
  const url = new URL(base ?? HOME, globalThis.document?.baseURI);
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
}

/** The one `Server` of an address; whoever brings a token of their own has one of their own. */
export function serverOf(base, token) {
  const place = address(base);
  const key = token === undefined ? place : `${place} ${token}`;
  if (!servers.has(key)) servers.set(key, new Server(place, token));
  return servers.get(key);
}
