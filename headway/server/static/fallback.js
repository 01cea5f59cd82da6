// One execution without a WebSocket: server-sent events while a connection is free for them,
// otherwise polling.

import { HeadwayError, retryAfterOf, unreadable } from "./api-client.js";
import { backoff } from "./backoff.js";
import { isTerminal } from "./execution-state.js";

/**
 * A browser opens six connections to an HTTP/1.1 server, for all of its tabs: endless streams must
 * not use all of them.
 */
const MAX_STREAMS = 2;
/** Milliseconds until the first bytes of a stream: some proxies buffer streams. */
const FIRST_BYTES_TIMEOUT = 8_000;
/** Milliseconds of silence after which a stream is dead; by default the server sends every 20 s. */
const MAX_SILENCE = 60_000;
/** Polls per second, of all executions together. */
const MAX_POLL_RATE = 10;

let streams = 0;
const polling = new Set();

/** Brings frames to an `ExecutionState` until `stop`. When it is closed, calls `onClosed`. */
export class Fallback {
  #client; #execution; #onClosed;
  #stopped = new AbortController();
  #etag = null;
  #failures = 0;
  /** Streams that failed although a poll worked. After two of them, only polling is used. */
  #failedStreams = 0;

  constructor(client, execution, onClosed) {
    this.#client = client;
    this.#execution = execution;
    this.#onClosed = onClosed;
    this.#run();
  }

  stop() {
    this.#stopped.abort();
    polling.delete(this);
  }

  async #run() {
    const stopped = this.#stopped.signal;
    while (!stopped.aborted) {
      let wait;
      try {
        const streaming = this.#failedStreams < 2 && streams < MAX_STREAMS;
        wait = streaming ? await this.#stream() : await this.#poll();
        this.#failures = 0;
      } catch (error) {
        if (stopped.aborted) return;
        if (!(error instanceof HeadwayError)) throw error;
        wait = this.#onFailure(error);
      }
      if (this.#execution.closed && !stopped.aborted) { this.stop(); this.#onClosed(); }
      else await this.#sleep(wait);
    }
  }

  /** Returns the milliseconds until the next try. */
  #onFailure(error) {
    if (error.final) this.#execution.fail(error);
    else if (error.code === "unavailable") this.#execution.setUnavailable(error);
    else if (error.code !== "too_many") this.#execution.setConnection("lost");
    this.#etag = null; // after a failure the full state must be reported again
    return Math.max(error.retryAfter * 1000, backoff(this.#failures++));
  }

  /** Wait, but not longer than until `stop`. */
  async #sleep(milliseconds) {
    let resolve;
    const over = new Promise((it) => { resolve = it; });
    const timer = setTimeout(resolve, milliseconds);
    this.#stopped.signal.addEventListener("abort", resolve);
    await over;
    clearTimeout(timer);
    this.#stopped.signal.removeEventListener("abort", resolve);
  }

  get #path() { return `/executions/${encodeURIComponent(this.#execution.id)}`; }

  async #poll() {
    polling.add(this);
    const headers = this.#etag ? { "If-None-Match": this.#etag } : {};
    const signal = this.#stopped.signal;
    const response = await this.#client.request(this.#path, { headers, signal });
    const body = response.status === 304 ? null : await response.json().catch(() => {
      throw unreadable();
    });
    if (signal.aborted) return 0;
    this.#etag = response.headers.get("ETag") ?? this.#etag;
    this.#execution.setConnection("polling");
    if (body) this.#applyExecution(body);
    const seconds = Math.max(retryAfterOf(response) || 1, polling.size / MAX_POLL_RATE);
    return seconds * 1000 * (0.8 + 0.4 * Math.random());
  }

  /** Apply an execution of the REST API as the frames that a stream would have sent. */
  #applyExecution(body) {
    const { execution_id, status, phase, progress, outputs, error, updated_at: timestamp } = body;
    const { latest, unavailable } = this.#execution;
    const frame = { execution_id, status, timestamp, progress };
    const sameState = latest && latest.status === status && latest.phase === phase;
    const type = sameState && !unavailable ? "progress" : "status";
    this.#execution.applyFrame({ ...frame, type, phase });
    if (!isTerminal(status)) return;
    if (status === "completed") frame.outputs = outputs;
    if (status === "failed") frame.error = error;
    this.#execution.applyFrame({ ...frame, type: status });
  }

  async #stream() {
    streams += 1;
    polling.delete(this);
    const stopped = this.#stopped.signal;
    const own = new AbortController();
    const stop = () => own.abort();
    stopped.addEventListener("abort", stop, { once: true });
    let timer = setTimeout(stop, FIRST_BYTES_TIMEOUT);
    let started = false;
    try {
      const response = await this.#client.request(`${this.#path}/progress/events`, {
        headers: { Accept: "text/event-stream" }, signal: own.signal, timeout: 0,
      });
      const type = response.headers.get("Content-Type");
      if (!type?.startsWith("text/event-stream")) throw unreadable();
      const events = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done || stopped.aborted) break;
        clearTimeout(timer);
        timer = setTimeout(stop, MAX_SILENCE);
        started = true;
        this.#failedStreams = 0;
        for (const frame of events.parse(value)) this.#onFrame(frame);
        if (this.#execution.closed) break;
      }
      // A server that shuts down ends its streams.
      if (!this.#execution.closed) this.#execution.setConnection("lost");
      return backoff(2);
    } catch (error) {
      if (stopped.aborted) return 0;
      const ofServer = error instanceof HeadwayError;
      if (ofServer && (error.final || error.code === "unavailable")) throw error;
      // The browsers' own errors for a cut stream differ.
      if (started) throw new HeadwayError("unreachable", "The connection was cut.");
      const wait = await this.#poll();
      this.#failedStreams += 1;
      return wait;
    } finally {
      streams -= 1;
      clearTimeout(timer);
      own.abort();
      stopped.removeEventListener("abort", stop);
    }
  }

  #onFrame(frame) {
    if (frame.type === "error") {
      this.#execution.setUnavailable(new HeadwayError(frame.code, frame.message));
    } else {
      this.#execution.setConnection("live");
      this.#execution.applyFrame(frame);
    }
  }
}

/** Parses server-sent events from chunks of text. Headway sends one line of data per event. */
class EventParser {
  #rest = "";

  * parse(chunk) {
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}
