// HTTP client of one Headway server: base URL, token, and errors.

/** HTTP statuses as codes of the stream's `error` frames. */
const CODES = {
  401: "not_authenticated", 403: "not_allowed", 404: "not_found", 409: "conflict", 410: "expired",
  422: "invalid", 429: "too_many", 503: "unavailable",
};

/** Errors that a retry cannot fix. */
const FINAL = new Set(["not_authenticated", "not_allowed", "not_found", "expired", "invalid"]);

/** Milliseconds that a call may take. */
const TIMEOUT = 15_000;

/** An error for programs (`code`) and for people (`message`). */
export class HeadwayError extends Error {
  name = "HeadwayError";

  /**
   * @param {string} code `not_found`, `expired`, `not_allowed`, `not_authenticated`, `unavailable`
   *   (the server cannot reach its backend), `unreachable` (no response), `too_many`, `conflict`,
   *   `invalid`, or `failed` for everything else
   * @param {string} message
   * @param {{status?: number, retryAfter?: number}} [more] HTTP status (0: none) and the seconds of
   *   the `Retry-After` header
   */
  constructor(code, message, { status = 0, retryAfter = 0 } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** True if a retry cannot succeed. */
  get final() { return FINAL.has(this.code); }
}

/** Seconds of the `Retry-After` header, 0 without one. */
export const retryAfterOf = (response) => Number(response.headers.get("Retry-After")) || 0;

/** The error for a response whose body is not what the API sends. */
export const unreadable = (status) =>
  new HeadwayError("failed", "The server’s response can’t be read.", { status });

async function errorFromResponse(response) {
  const { status } = response;
  const body = await response.json().catch(() => null); // a proxy may send an HTML page
  const message = body?.detail ?? `The server responded with status ${status}.`;
  const more = { status, retryAfter: retryAfterOf(response) };
  return new HeadwayError(CODES[status] ?? "failed", message, more);
}

export class ApiClient {
  #token;
  #listeners = new Set();
  /** True after the first response from this server. */
  #reached = false;

  constructor(base, token) {
    this.base = base;
    this.#token = token;
  }

  get token() { return this.#token; }

  /** Notifies the listeners: calls that failed without the token may succeed with it. */
  set token(token) {
    if (token === this.#token) return;
    this.#token = token;
    this.#listeners.forEach((listener) => listener());
  }

  /** @returns {() => void} removes the listener */
  onTokenChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Fetch with the token. A `path` that starts with a slash is relative to the API. A `URL` is used
   * as it is, and gets the token only if it is on the same server.
   *
   * @returns {Promise<Response>} a response with status 2xx or 304
   * @throws {HeadwayError}
   */
  async request(path, { json, timeout = TIMEOUT, signal, headers, ...options } = {}) {
    const url = path instanceof URL ? path : new URL(this.base + path);
    const sent = new Headers(headers);
    if (this.#token && url.origin === new URL(this.base).origin) {
      sent.set("Authorization", `Bearer ${this.#token}`);
    }
    if (json !== undefined) {
      sent.set("Content-Type", "application/json");
      options = { method: "POST", ...options, body: JSON.stringify(json) };
    }
    const signals = [signal, timeout ? AbortSignal.timeout(timeout) : null].filter(Boolean);
    const any = AbortSignal.any(signals);
    let response;
    try {
      response = await fetch(url, { ...options, headers: sent, cache: "no-store", signal: any });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw await this.#explainFailure();
    }
    this.#reached = true;
    if (!response.ok && response.status !== 304) throw await errorFromResponse(response);
    return response;
  }

  /**
   * A browser does not say whether another origin's server is down or refuses this page. A request
   * with and one without CORS tell the two apart.
   */
  async #explainFailure() {
    const [theirs, ours] = [new URL(this.base).origin, globalThis.location?.origin];
    const responds = (mode) => {
      const signal = AbortSignal.timeout(TIMEOUT);
      return fetch(`${this.base}/healthz`, { mode, cache: "no-store", signal })
        .then(() => true, () => false);
    };
    const mayBeCors = !this.#reached && theirs !== ours;
    if (mayBeCors && await responds("no-cors") && !await responds("cors")) {
      const message = `The server at ${theirs} doesn’t allow requests from pages of ${ours}.`;
      return new HeadwayError("not_allowed", message);
    }
    return new HeadwayError("unreachable", "The server can’t be reached.");
  }

  /** The parsed body of a `request`; null if there is none. */
  async fetchJson(path, options) {
    const response = await this.request(path, options);
    try {
      return response.status === 204 ? null : await response.json();
    } catch {
      throw unreadable(response.status);
    }
  }

  /**
   * The URL of the multi-execution WebSocket. A browser cannot send the token in a header of the
   * handshake, so the URL carries a short-lived ticket.
   */
  async socketUrl() {
    const url = new URL(`${this.base}/progress/ws`);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.#token) {
      const { ticket } = await this.fetchJson("/tickets", { json: {} });
      if (ticket) url.searchParams.set("ticket", ticket); // null if the server needs no token
    }
    return url;
  }
}

/**
 * The server of this module also serves the API, at the same path (web-facts#csp-and-shadow-roots).
 */
const OWN_BASE = new URL(".", import.meta.url);

const clients = new Map();

function normalize(base) {
  const url = new URL(base ?? OWN_BASE, globalThis.document?.baseURI);
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
}

/** The one `ApiClient` for a base URL; an explicit token gets a client of its own. */
export function clientFor(base, token) {
  const url = normalize(base);
  const key = token === undefined ? url : `${url} ${token}`;
  if (!clients.has(key)) clients.set(key, new ApiClient(url, token));
  return clients.get(key);
}
