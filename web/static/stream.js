// One execution, followed to its end: REST first, then the socket, and again after every cut.

import { execution, socketUrl, ApiError } from "./api.js";

const TERMINAL = new Set(["completed", "failed", "cancelled"]);

// Closes after which asking again gives the same answer.
const FINAL_CLOSES = { 1008: "unknown", 4403: "forbidden" };
const FINAL_ANSWERS = { 403: "forbidden", 404: "unknown", 410: "expired", 422: "unknown" };

export const terminal = (status) => TERMINAL.has(status);

/**
 * Tells `on.frame(frame)` what the API says (a first look comes as a frame of type "look" with the whole execution), and
 * `on.link(state, text)` how it is connected: "live", "lost" (it tries again by itself), "away" (the server's own backend can't be
 * reached), "ended", or for good "unknown", "expired", "forbidden", and "locked" until `open` is called again with a token.
 */
export class Stream {
  #id; #on; #socket = null; #timer = 0; #tries = 0; #run = 0;

  constructor(id, on) {
    this.#id = id;
    this.#on = on;
  }

  /** Begin, or begin anew. */
  open() {
    this.close();
    this.#connect(this.#run);
  }

  close() {
    this.#run += 1; // whatever is still under way belongs to an older run, and is dropped
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  async #connect(run) {
    let url;
    try {
      // A browser is told nothing but 1006 of a refused upgrade, so what is wrong is asked over HTTP first.
      const seen = await execution(this.#id);
      if (run !== this.#run) return;
      this.#on.frame({ type: "look", ...seen });
      if (terminal(seen.status)) return this.#on.link("ended");
      url = await socketUrl(this.#id);
    } catch (error) {
      if (run === this.#run) this.#refused(error);
      return;
    }
    if (run === this.#run) this.#listen(url, run);
  }

  #refused(error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return this.#on.link("locked");
    const end = FINAL_ANSWERS[error.status];
    if (end) return this.#on.link(end, error.message);
    this.#again("lost", error.message);
  }

  #listen(url, run) {
    const socket = (this.#socket = new WebSocket(url));
    let ended = false;
    socket.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      if (frame.type === "error") {
        if (frame.code === "unavailable") this.#on.link("away", frame.message);
        return;
      }
      this.#tries = 0;
      this.#on.link("live");
      this.#on.frame(frame);
      ended = ended || terminal(frame.type);
    };
    socket.onclose = (event) => {
      if (run !== this.#run) return;
      this.#socket = null;
      if (ended) this.#on.link("ended");
      else if (event.code === 4401) this.#on.link("locked");
      else if (event.code in FINAL_CLOSES) this.#on.link(FINAL_CLOSES[event.code], event.reason);
      else this.#again("lost");
    };
  }

  /** Try again later, and not all viewers of a server at once: half the wait is chance. */
  #again(state, text) {
    this.#on.link(state, text);
    const wait = Math.min(20000, 500 * 2 ** this.#tries);
    this.#tries += 1;
    const run = this.#run;
    this.#timer = setTimeout(() => run === this.#run && this.#connect(run), wait / 2 + (Math.random() * wait) / 2);
  }
}
