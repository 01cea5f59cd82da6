// One WebSocket for everything that a page watches on one server. It opens with the first watch,
// closes shortly after the last one, pauses while the page is hidden, and reconnects after a cut.
// While no socket is available, a `Fallback` per execution brings the frames.

import { HeadwayError } from "./api-client.js";
import { backoff } from "./backoff.js";
import { ExecutionState } from "./execution-state.js";
import { Fallback } from "./fallback.js";

// All in milliseconds.
const OPEN_TIMEOUT = 10_000;
/** From a subscription to its first frame. */
const REPLY_TIMEOUT = 10_000;
/**
 * Silence after which the server is sent a request that it must answer: a half-open connection is
 * silent too.
 */
const MAX_SILENCE = 40_000;
const CHECK_INTERVAL = 2_500;
/** Between two messages to the server, which treats 100 messages in 10 s as an attack. */
const SEND_INTERVAL = 150;
/** From the last watch to the close: a page that replaces its content soon watches again. */
const IDLE_TIMEOUT = 2_000;
/** From hiding the page to pausing the connection. */
const HIDDEN_TIMEOUT = 10_000;

/** Bytes of ids per message: the server accepts 16 KiB. */
const MAX_MESSAGE = 8_000;

const connections = new WeakMap();

/** The one `Connection` of an `ApiClient`. */
export function connectionFor(client) {
  if (!connections.has(client)) connections.set(client, new Connection(client));
  return connections.get(client);
}

class Connection {
  #client;
  #executions = new Map();
  #fallbacks = new Map();
  #socket = null;
  /** Subscriptions of the socket, by id: the state that needs the frames. */
  #subscribed = new Map();
  #opening = false;
  /** Incremented when a pending open has become obsolete. */
  #generation = 0;
  /** Failures since the last frame. */
  #failures = 0;
  /** True while no socket is available. */
  #fallbackActive = false;
  #lastMessageAt = 0;
  /** When the oldest unanswered subscription was sent; 0: none is pending. */
  #awaitingReplySince = 0;
  #lastSentAt = 0;
  #syncScheduled = false;
  #timers = { retry: 0, check: 0, idle: 0, hidden: 0 };
  /** "hidden" (the page is hidden), "bfcache" (it is in the browser's back-forward cache). */
  #pauseReasons = new Set();

  constructor(client) {
    this.#client = client;
    client.onTokenChange(() => this.#restart());
    if (!globalThis.document) return;
    document.addEventListener("visibilitychange", () => this.#onVisibilityChange());
    addEventListener("pagehide", () => this.#setPaused("bfcache", true));
    addEventListener("pageshow", () => this.#setPaused("bfcache", false));
    addEventListener("online", () => this.#onNetworkChange());
    addEventListener("offline", () => this.#onNetworkChange());
    this.#onVisibilityChange();
  }

  /** Add a watcher of an execution. Returns the execution's state, for `unsubscribe`. */
  subscribe(id, watcher) {
    let execution = this.#executions.get(id);
    if (!execution) {
      execution = new ExecutionState(id);
      this.#executions.set(id, execution);
    }
    execution.add(watcher);
    clearTimeout(this.#timers.idle);
    if (this.#pauseReasons.size && this.#canPause) return execution;
    this.#pauseReasons.delete("hidden");
    if (this.#socket) this.#scheduleSync();
    else if (this.#fallbackActive) this.#startFallback(execution);
    else this.#open();
    return execution;
  }

  unsubscribe(execution, watcher) {
    execution.remove(watcher);
    if (!execution.watcherCount) this.#remove(execution);
  }

  #remove(execution) {
    if (this.#executions.get(execution.id) !== execution) return;
    this.#executions.delete(execution.id);
    this.#stopFallback(execution);
    this.#scheduleSync();
    if (!this.#executions.size) {
      clearTimeout(this.#timers.idle);
      this.#timers.idle = setTimeout(() => this.#stop(), IDLE_TIMEOUT);
    }
  }

  // --- the socket ---

  async #open() {
    const needed = this.#executions.size && !this.#pauseReasons.size;
    if (this.#opening || this.#socket || !needed) return;
    clearTimeout(this.#timers.retry);
    this.#opening = true;
    const generation = this.#generation;
    let socket;
    try {
      socket = new WebSocket(await this.#client.socketUrl());
    } catch (error) {
      // No ticket, or the page's policy forbids the socket. REST explains the error, or works.
      if (!(error instanceof HeadwayError) && !(error instanceof DOMException)) throw error;
      if (generation === this.#generation) this.#onOpenFailed();
      return;
    }
    if (generation !== this.#generation) return socket.close();
    const timer = setTimeout(() => this.#onOpenFailed(socket), OPEN_TIMEOUT);
    socket.onopen = () => {
      clearTimeout(timer);
      if (generation !== this.#generation) return socket.close();
      this.#opening = false;
      this.#socket = socket;
      this.#lastMessageAt = Date.now();
      this.#timers.check = setInterval(() => this.#checkLiveness(), CHECK_INTERVAL);
      this.#scheduleSync();
    };
    socket.onmessage = ({ data }) => socket === this.#socket && this.#onFrame(JSON.parse(data));
    const closed = ({ code }) => {
      clearTimeout(timer);
      if (socket === this.#socket) this.#onClosed(code);
      else if (generation === this.#generation && this.#opening) this.#onOpenFailed(socket, code);
    };
    socket.onclose = closed;
    // If the page's policy forbids the socket, Chromium fires `error` without `close`.
    socket.onerror = () => socket !== this.#socket && closed({});
  }

  /**
   * The socket did not open. A browser does not say why (web-facts#browsers-see-1006): the
   * fallback of each execution finds out by REST, and brings frames meanwhile if it can.
   */
  #onOpenFailed(socket, code) {
    this.#generation += 1;
    this.#opening = false;
    socket?.close();
    this.#scheduleRetry(code);
    this.#startFallbacks();
  }

  /** The socket was open and has closed. */
  #onClosed(code) {
    this.#closeSocket();
    const wasWorking = this.#failures === 0;
    this.#scheduleRetry(code);
    // If the socket closed before its first frame, or the server refuses us for a longer time, the
    // fallback must bridge the gap.
    if (!wasWorking || code === 1013 || (code >= 4400 && code < 4500)) {
      this.#startFallbacks();
    } else {
      this.#executions.forEach((execution) => {
        if (!this.#fallbacks.has(execution)) execution.setConnection("lost");
      });
    }
  }

  #scheduleRetry(code) {
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => this.#open(), backoff(this.#failures++, code));
  }

  /** Close the socket and forget its subscriptions. */
  #closeSocket() {
    const socket = this.#socket;
    this.#socket = null;
    this.#subscribed.clear();
    this.#awaitingReplySince = 0;
    clearInterval(this.#timers.check);
    socket?.close();
  }

  /** Stop everything until the next `#open`. */
  #stop() {
    this.#generation += 1;
    this.#opening = this.#fallbackActive = false;
    this.#failures = 0;
    clearTimeout(this.#timers.retry);
    this.#closeSocket();
    this.#fallbacks.forEach((fallback) => fallback.stop());
    this.#fallbacks.clear();
  }

  #restart() {
    this.#stop();
    this.#open();
  }

  #onFrame(frame) {
    this.#lastMessageAt = Date.now();
    this.#awaitingReplySince = 0;
    for (const id of frame.execution_ids ?? []) { // one error for several executions
      this.#onFrame({ ...frame, execution_id: id, execution_ids: [] });
    }
    const execution = this.#subscribed.get(frame.execution_id);
    if (!execution || execution !== this.#executions.get(execution.id)) return;
    if (frame.type === "error") {
      this.#onError(execution, new HeadwayError(frame.code, frame.message));
      return;
    }
    this.#failures = 0;
    this.#fallbackActive = false;
    this.#stopFallback(execution);
    execution.setConnection("live");
    execution.applyFrame(frame);
    if (execution.closed) {
      this.#subscribed.delete(execution.id); // the server has ended the subscription too
      this.#remove(execution);
    }
  }

  #onError(execution, error) {
    if (error.final) {
      this.#subscribed.delete(execution.id);
      execution.fail(error);
      this.#remove(execution);
    } else if (error.code === "unavailable") {
      this.#stopFallback(execution);
      execution.setConnection("live");
      execution.setUnavailable(error);
    } else this.#startFallback(execution); // "too_many" executions on one socket
  }

  // --- subscriptions ---

  /** Soon, send the changes of the subscriptions to the server, in as few messages as possible. */
  #scheduleSync() {
    if (this.#syncScheduled || !this.#socket) return;
    this.#syncScheduled = true;
    const socket = this.#socket;
    const sync = () => {
      this.#syncScheduled = false;
      if (socket !== this.#socket) return this.#scheduleSync();
      const added = [...this.#executions.values()]
        .filter((execution) => this.#subscribed.get(execution.id) !== execution);
      const removed = [...this.#subscribed]
        .filter(([id, execution]) => this.#executions.get(id) !== execution).map(([id]) => id);
      this.#send(removed, added);
    };
    const wait = this.#lastSentAt + SEND_INTERVAL - Date.now();
    if (wait > 0) setTimeout(sync, wait);
    else queueMicrotask(sync);
  }

  /** Send changes. An id in both lists is subscribed again, which starts with a `status` frame. */
  #send(removed, added) {
    removed.forEach((id) => this.#subscribed.delete(id));
    added.forEach((execution) => this.#subscribed.set(execution.id, execution));
    let message = {};
    let size = 0;
    const flush = () => {
      if (size) this.#socket.send(JSON.stringify(message));
      message = {};
      size = 0;
    };
    const add = (action, id) => {
      const more = 4 + 3 * id.length; // upper bound of its size in UTF-8
      if (size + more > MAX_MESSAGE) flush();
      size += more;
      (message[action] ??= []).push(id);
    };
    removed.forEach((id) => add("unsubscribe", id));
    added.forEach(({ id }) => add("subscribe", id));
    flush();
    this.#lastSentAt = Date.now();
    if (added.length) this.#awaitingReplySince ||= Date.now();
  }

  #checkLiveness() {
    const now = Date.now();
    if (this.#awaitingReplySince) {
      if (now - this.#awaitingReplySince <= REPLY_TIMEOUT) return;
      this.#failures += 1; // opened, but no reply: the fallback must bridge the next attempt
      this.#onClosed(1006);
      return;
    }
    const outage = this.#someExecution((execution) => execution.unavailable);
    const silent = now - this.#lastMessageAt > MAX_SILENCE;
    if (silent || (outage && now - this.#lastSentAt > MAX_SILENCE)) this.#probe();
  }

  /** Request a new `status` of one execution, and of each one that the server could not read. */
  #probe() {
    const [first] = this.#subscribed.values();
    const probed = [...this.#subscribed.values()]
      .filter((execution) => execution === first || execution.unavailable);
    this.#lastMessageAt = Date.now();
    this.#send(probed.map(({ id }) => id), probed);
  }

  #someExecution(test) { return [...this.#executions.values()].some(test); }

  #startFallbacks() {
    this.#fallbackActive = true;
    this.#executions.forEach((execution) => this.#startFallback(execution));
  }

  #startFallback(execution) {
    if (this.#fallbacks.has(execution)) return;
    const fallback = new Fallback(this.#client, execution, () => this.#remove(execution));
    this.#fallbacks.set(execution, fallback);
  }

  #stopFallback(execution) {
    this.#fallbacks.get(execution)?.stop();
    this.#fallbacks.delete(execution);
  }

  // --- the page ---

  get #canPause() {
    const background = (execution) => execution.someWatcher((watcher) => watcher.background);
    return this.#pauseReasons.has("bfcache") || !this.#someExecution(background);
  }

  #onVisibilityChange() {
    clearTimeout(this.#timers.hidden);
    if (document.hidden) {
      this.#timers.hidden = setTimeout(() => this.#setPaused("hidden", true), HIDDEN_TIMEOUT);
    } else this.#setPaused("hidden", false);
  }

  #setPaused(reason, paused) {
    if (paused === this.#pauseReasons.has(reason)) return;
    if (!paused) {
      this.#pauseReasons.delete(reason);
      this.#open();
      return;
    }
    this.#pauseReasons.add(reason);
    if (!this.#canPause) this.#pauseReasons.delete(reason);
    else {
      this.#stop();
      this.#executions.forEach((execution) => execution.setConnection("connecting"));
    }
  }

  /** `online` and `offline` events may be wrong: check the connection itself. */
  #onNetworkChange() {
    if (this.#socket) this.#probe();
    else if (navigator.onLine) {
      this.#failures = 0; // an attempt that started before may still fail: then retry soon
      this.#open();
    }
  }
}
