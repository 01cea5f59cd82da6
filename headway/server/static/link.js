// One socket for all that a page watches of one server. It opens with the first watch, closes soon after the last, rests while
// nobody can see the page, and comes back after every cut; while it can't be had, `Fallback` brings the frames.

import { backoff } from "./backoff.js";
import { Fallback } from "./fallback.js";
import { HeadwayError } from "./server.js";
import { Subject } from "./subject.js";

/** All in milliseconds. */
const OPENING = 10_000;
/** Within which a subscription is answered. */
const ANSWER = 10_000;
/** Of quiet, after which the server is asked for something that it has to answer: a half-open connection looks just as quiet. */
const QUIET = 40_000;
const LOOK = 2_500;
/** Between two messages to the server, which takes 100 in 10 s for an attack. */
const BETWEEN = 150;
/** Without a watch, before the socket closes: a page that replaces its content watches again at once. */
const LINGER = 2_000;
/** Out of sight, before all rests. */
const HIDDEN = 10_000;
/** Bytes of ids in a message: the server takes 16 KiB. */
const MESSAGE = 8_000;

const links = new WeakMap();

/** The one `Link` of a `Server`. */
export function linkOf(server) {
  if (!links.has(server)) links.set(server, new Link(server));
  return links.get(server);
}

class Link {
  #server;
  #subjects = new Map();
  #fallbacks = new Map();
  #socket = null;
  /** What the socket was told to bring: id -> the subject that it was for. */
  #subscribed = new Map();
  #opening = false;
  /** Raised whenever what is under way has lost its sense. */
  #run = 0;
  #tries = 0;
  /** The socket can't be had now. */
  #fallen = false;
  #heard = 0;
  #asked = 0;
  #flushed = 0;
  #flushing = false;
  #timers = { again: 0, look: 0, linger: 0, hidden: 0 };
  /** Why it rests: "hidden" (nobody sees the page), "gone" (it is in the browser's back-forward cache). */
  #rest = new Set();

  constructor(server) {
    this.#server = server;
    server.onToken(() => this.#afresh());
    if (!globalThis.document) return;
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("pagehide", () => this.#resting("gone", true));
    addEventListener("pageshow", () => this.#resting("gone", false));
    addEventListener("online", () => this.#doubt());
    addEventListener("offline", () => this.#doubt());
    this.#seen();
  }

  /** Let a watcher hear of an execution; returns its subject, for `leave`. */
  join(id, watcher) {
    let subject = this.#subjects.get(id);
    if (!subject) {
      subject = new Subject(id);
      this.#subjects.set(id, subject);
    }
    subject.add(watcher);
    clearTimeout(this.#timers.linger);
    if (this.#rest.size && this.#mayRest) return subject;
    this.#rest.delete("hidden");
    if (this.#socket) this.#flush();
    else if (this.#fallen) this.#fall(subject);
    else this.#open();
    return subject;
  }

  leave(subject, watcher) {
    subject.remove(watcher);
    if (!subject.watchers) this.#forget(subject);
  }

  #forget(subject) {
    if (this.#subjects.get(subject.id) !== subject) return;
    this.#subjects.delete(subject.id);
    this.#rise(subject);
    this.#flush();
    if (!this.#subjects.size) {
      clearTimeout(this.#timers.linger);
      this.#timers.linger = setTimeout(() => this.#shut(), LINGER);
    }
  }

  // -- the socket

  async #open() {
    if (this.#opening || this.#socket || !this.#subjects.size || this.#rest.size) return;
    clearTimeout(this.#timers.again);
    this.#opening = true;
    const run = this.#run;
    let socket;
    try {
      socket = new WebSocket(await this.#server.socketUrl());
    } catch (error) {
      // No ticket, or the page's policy forbids the socket. REST says what is wrong, or works.
      if (!(error instanceof HeadwayError) && !(error instanceof DOMException)) throw error;
      if (run === this.#run) this.#refused();
      return;
    }
    if (run !== this.#run) return socket.close();
    const timer = setTimeout(() => this.#refused(socket), OPENING);
    socket.onopen = () => {
      clearTimeout(timer);
      if (run !== this.#run) return socket.close();
      this.#opening = false;
      this.#socket = socket;
      this.#heard = Date.now();
      this.#timers.look = setInterval(() => this.#look(), LOOK);
      this.#flush();
    };
    socket.onmessage = ({ data }) => socket === this.#socket && this.#hear(JSON.parse(data));
    const closed = ({ code }) => {
      clearTimeout(timer);
      if (socket === this.#socket) this.#cut(code);
      else if (run === this.#run && this.#opening) this.#refused(socket, code);
    };
    socket.onclose = closed;
    // Chromium tells no more than this of a socket that the page's policy forbids.
    socket.onerror = () => socket !== this.#socket && closed({});
  }

  /** It didn't open. A browser doesn't say why (web fact 7): each execution's fallback asks, and brings what it can meanwhile. */
  #refused(socket, code) {
    this.#run += 1;
    this.#opening = false;
    socket?.close();
    this.#again(code);
    this.#fallen = true;
    this.#subjects.forEach((subject) => this.#fall(subject));
  }

  /** It was open, and isn't any more. */
  #cut(code) {
    this.#silence();
    const answered = this.#tries === 0;
    this.#again(code);
    // Cut before it said a word, or sent away for longer than a moment: not something to wait for with nothing in hand.
    if (!answered || code === 1013 || (code >= 4400 && code < 4500)) {
      this.#fallen = true;
      this.#subjects.forEach((subject) => this.#fall(subject));
    } else this.#subjects.forEach((subject) => !this.#fallbacks.has(subject) && subject.connect("lost"));
  }

  #again(code) {
    clearTimeout(this.#timers.again);
    this.#timers.again = setTimeout(() => this.#open(), backoff(this.#tries++, code));
  }

  /** Close it, and forget what it was for. */
  #silence() {
    const socket = this.#socket;
    this.#socket = null;
    this.#subscribed.clear();
    this.#asked = 0;
    clearInterval(this.#timers.look);
    socket?.close();
  }

  /** Stop all, until somebody calls `#open`. */
  #shut() {
    this.#run += 1;
    this.#opening = this.#fallen = false;
    this.#tries = 0;
    clearTimeout(this.#timers.again);
    this.#silence();
    this.#fallbacks.forEach((fallback) => fallback.stop());
    this.#fallbacks.clear();
  }

  #afresh() {
    this.#shut();
    this.#open();
  }

  #hear(frame) {
    this.#heard = Date.now();
    this.#asked = 0;
    for (const id of frame.execution_ids ?? []) this.#hear({ ...frame, execution_id: id, execution_ids: [] }); // more than one socket watches
    const subject = this.#subscribed.get(frame.execution_id);
    if (!subject || subject !== this.#subjects.get(subject.id)) return;
    if (frame.type === "error") return this.#trouble(subject, new HeadwayError(frame.code, frame.message));
    this.#tries = 0;
    this.#fallen = false;
    this.#rise(subject);
    subject.connect("live");
    subject.accept(frame);
    if (subject.over) {
      this.#subscribed.delete(subject.id); // the server's side has ended it too
      this.#forget(subject);
    }
  }

  #trouble(subject, error) {
    if (error.final) {
      this.#subscribed.delete(subject.id);
      subject.refuse(error);
      this.#forget(subject);
    } else if (error.code === "unavailable") {
      this.#rise(subject);
      subject.connect("live");
      subject.trouble(error);
    } else this.#fall(subject); // "too_many" for one socket
  }

  // -- what it carries

  /** Soon, tell the server what is wanted and what no more, in as few messages as possible. */
  #flush() {
    if (this.#flushing || !this.#socket) return;
    this.#flushing = true;
    const socket = this.#socket;
    const flush = () => {
      this.#flushing = false;
      if (socket !== this.#socket) return this.#flush();
      const wanted = [...this.#subjects.values()].filter((subject) => this.#subscribed.get(subject.id) !== subject);
      const dropped = [...this.#subscribed].filter(([id, subject]) => this.#subjects.get(id) !== subject).map(([id]) => id);
      this.#order(dropped, wanted);
    };
    const wait = this.#flushed + BETWEEN - Date.now();
    if (wait > 0) setTimeout(flush, wait);
    else queueMicrotask(flush);
  }

  /** Send orders. What is dropped and wanted in one message begins anew, with a `status`. */
  #order(dropped, wanted) {
    dropped.forEach((id) => this.#subscribed.delete(id));
    wanted.forEach((subject) => this.#subscribed.set(subject.id, subject));
    let message = {};
    let size = 0;
    const send = () => {
      if (size) this.#socket.send(JSON.stringify(message));
      message = {};
      size = 0;
    };
    const add = (order, id) => {
      const more = 4 + 3 * id.length; // as UTF-8, at most
      if (size + more > MESSAGE) send();
      size += more;
      (message[order] ??= []).push(id);
    };
    dropped.forEach((id) => add("unsubscribe", id));
    wanted.forEach(({ id }) => add("subscribe", id));
    send();
    this.#flushed = Date.now();
    if (wanted.length) this.#asked ||= Date.now();
  }

  #look() {
    const now = Date.now();
    if (this.#asked && now - this.#asked > ANSWER) {
      this.#tries += 1; // it opened and said nothing: next time not with nothing in hand
      this.#cut(1006);
      return;
    }
    const away = [...this.#subjects.values()].some((subject) => subject.away) && now - this.#flushed > QUIET;
    if (!this.#asked && (away || now - this.#heard > QUIET)) this.#ask();
  }

  /** Ask for what has to be answered: a fresh `status` of one execution, and of each that the server couldn't see. */
  #ask() {
    const [first] = this.#subscribed.values();
    const asked = [...this.#subscribed.values()].filter((subject) => subject === first || subject.away);
    this.#heard = Date.now();
    this.#order(asked.map(({ id }) => id), asked);
  }

  #fall(subject) {
    if (this.#fallbacks.has(subject)) return;
    this.#fallbacks.set(subject, new Fallback(this.#server, subject, () => this.#forget(subject)));
  }

  #rise(subject) {
    this.#fallbacks.get(subject)?.stop();
    this.#fallbacks.delete(subject);
  }

  // -- the page

  get #mayRest() {
    return this.#rest.has("gone") || ![...this.#subjects.values()].some((subject) => subject.some((watcher) => watcher.background));
  }

  #seen() {
    clearTimeout(this.#timers.hidden);
    if (document.hidden) this.#timers.hidden = setTimeout(() => this.#resting("hidden", true), HIDDEN);
    else this.#resting("hidden", false);
  }

  #resting(why, yes) {
    if (yes === this.#rest.has(why)) return;
    if (!yes) {
      this.#rest.delete(why);
      this.#open();
      return;
    }
    this.#rest.add(why);
    if (!this.#mayRest) this.#rest.delete(why);
    else {
      this.#shut();
      this.#subjects.forEach((subject) => subject.connect("connecting"));
    }
  }

  /** The network came or went, says the browser, which may be wrong: find out. */
  #doubt() {
    if (this.#socket) this.#ask();
    else if (navigator.onLine) {
      this.#tries = 0; // a try that is under way may have begun before, and fail: then the next one comes soon
      this.#open();
    }
  }
}
