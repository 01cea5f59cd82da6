// One execution without a WebSocket: server-sent events where a connection is free for them, else polling.

import { backoff } from "./backoff.js";
import { HeadwayError, seconds } from "./server.js";
import { terminal } from "./subject.js";

/** A browser opens six connections to an HTTP/1.1 server, for all of its tabs: streams that never end may not take them all. */
const MOST_STREAMS = 2;
/** Milliseconds within which a stream must begin: a proxy that holds it back is as good as none. */
const FIRST_BYTES = 8_000;
/** Milliseconds of silence after which a stream is dead; the server sends something every 20 s, unless it is set otherwise. */
const SILENCE = 60_000;
/** Polls in a second, of all executions together. */
const POLLS = 10;

let streams = 0;
const polling = new Set();

/** Brings its subject frames until `stop`, or until the subject is over: then `onOver` is called. */
export class Fallback {
  #server; #subject; #onOver;
  #gone = new AbortController();
  #etag = null;
  #tries = 0;
  /** How often a stream was tried in vain; a poll that works where streams don't says that it is no use. */
  #vain = 0;

  constructor(server, subject, onOver) {
    this.#server = server;
    this.#subject = subject;
    this.#onOver = onOver;
    this.#run();
  }

  stop() {
    this.#gone.abort();
    polling.delete(this);
  }

  async #run() {
    while (!this.#gone.signal.aborted) {
      let wait;
      try {
        wait = this.#vain < 2 && streams < MOST_STREAMS ? await this.#stream() : await this.#poll();
        this.#tries = 0;
      } catch (error) {
        if (this.#gone.signal.aborted) return;
        if (!(error instanceof HeadwayError)) throw error;
        wait = this.#failed(error);
      }
      if (this.#subject.over && !this.#gone.signal.aborted) { this.stop(); this.#onOver(); }
      else await this.#pause(wait);
    }
  }

  /** Milliseconds until the next try. */
  #failed(error) {
    if (error.final) this.#subject.refuse(error);
    else if (error.code === "unavailable") this.#subject.trouble(error);
    else if (error.code !== "too_many") this.#subject.connect("lost");
    this.#etag = null; // what it is now is worth telling again
    return Math.max(error.retryAfter * 1000, backoff(this.#tries++));
  }

  async #pause(milliseconds) {
    let resolve;
    const over = new Promise((it) => { resolve = it; });
    const timer = setTimeout(resolve, milliseconds);
    this.#gone.signal.addEventListener("abort", resolve);
    await over;
    clearTimeout(timer);
    this.#gone.signal.removeEventListener("abort", resolve);
  }

  get #path() { return `/executions/${encodeURIComponent(this.#subject.id)}`; }

  async #poll() {
    polling.add(this);
    const headers = this.#etag ? { "If-None-Match": this.#etag } : {};
    const response = await this.#server.call(this.#path, { headers, signal: this.#gone.signal });
    const execution = response.status === 304 ? null : await response.json().catch(unreadable);
    if (this.#gone.signal.aborted) return 0;
    this.#etag = response.headers.get("ETag") ?? this.#etag;
    this.#subject.connect("polling");
    if (execution) this.#take(execution);
    return Math.max(seconds(response) || 1, polling.size / POLLS) * 1000 * (0.8 + 0.4 * Math.random());
  }

  /** A whole execution, as the frames that a stream would have brought. */
  #take(execution) {
    const { execution_id, status, phase, progress, outputs, error, updated_at: timestamp } = execution;
    const { known, away } = this.#subject;
    const frame = { execution_id, status, timestamp, progress };
    const type = known && !away && known.status === status && known.phase === phase ? "progress" : "status";
    this.#subject.accept({ ...frame, type, phase });
    if (terminal(status)) this.#subject.accept({ ...frame, type: status, ...(status === "completed" ? { outputs } : {}), ...(status === "failed" ? { error } : {}) });
  }

  async #stream() {
    streams += 1;
    polling.delete(this);
    const own = new AbortController();
    const stop = () => own.abort();
    this.#gone.signal.addEventListener("abort", stop, { once: true });
    let timer = setTimeout(stop, FIRST_BYTES);
    let begun = false;
    try {
      const headers = { Accept: "text/event-stream" };
      const response = await this.#server.call(`${this.#path}/progress/events`, { headers, signal: own.signal, timeout: 0 });
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) unreadable();
      const events = new Events();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done || this.#gone.signal.aborted) break;
        clearTimeout(timer);
        timer = setTimeout(stop, SILENCE);
        begun = true;
        this.#vain = 0;
        for (const frame of events.read(value)) this.#hear(frame);
        if (this.#subject.over) break;
      }
      if (!this.#subject.over) this.#subject.connect("lost"); // the server is going down: it ends its streams
      return backoff(2);
    } catch (error) {
      if (this.#gone.signal.aborted) return 0;
      if (error instanceof HeadwayError && (error.final || error.code === "unavailable")) throw error;
      if (begun) throw new HeadwayError("unreachable", "The connection was cut."); // whatever the browser calls it
      const wait = await this.#poll();
      this.#vain += 1;
      return wait;
    } finally {
      streams -= 1;
      clearTimeout(timer);
      own.abort();
      this.#gone.signal.removeEventListener("abort", stop);
    }
  }

  #hear(frame) {
    if (frame.type === "error") this.#subject.trouble(new HeadwayError(frame.code, frame.message));
    else {
      this.#subject.connect("live");
      this.#subject.accept(frame);
    }
  }
}

function unreadable() {
  throw new HeadwayError("failed", "The server’s answer can’t be read.");
}

/** Server-sent events out of pieces of text, as far as Headway sends them: one line of data each. */
class Events {
  #rest = "";

  * read(piece) {
    const lines = (this.#rest + piece).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}
