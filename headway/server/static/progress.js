// <headway-progress execution="ID">: one execution as a bar with its words. Whatever a task says is set as text, never as HTML.

import { style } from "./progress-style.js";
import { serverOf } from "./server.js";
import { terminal } from "./subject.js";
import { watch } from "./watch.js";
import { PHASES, amount, percent, rate, timeLeft } from "./words.js";

/** What keeps the execution from being seen, by the error's code. */
const OBSTACLES = {
  not_found: "Not found", expired: "Expired", not_allowed: "Not allowed", not_authenticated: "Wants a token", invalid: "Not found",
  unavailable: "The server’s backend is away",
};
const TONES = {
  queued: "waiting", retrying: "waiting", stalled: "waiting", cancelling: "waiting",
  succeeded: "done", failed: "failed", cancelled: "cancelled",
};

/** A listener hears of progress at most this often: milliseconds, and points of a hundred. */
const ANNOUNCED = { every: 10_000, points: 10 };

function part(name, tag = "span", parent = null) {
  const element = document.createElement(tag);
  element.className = name;
  element.part = name;
  parent?.append(element);
  return element;
}

const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

/**
 * Attributes: `execution` (its id), `src` (another server's API, `https://other.example/api/v1`), `label` (what it is, for readers
 * and listeners), `unit` (what is counted; "bytes" are said as kB and MB). A change of the first two watches anew.
 *
 * Events, which bubble out of shadow roots: `headway-status`, `headway-progress` and `headway-end` with the frame as `detail`,
 * `headway-error` with the error. Parts: box, label, status, bar, fill, message, numbers, percentage, amount, rate, time, error.
 * Custom properties: `--headway-accent`, `-done`, `-failed`, `-waiting`, `-cancelled`, `-text`, `-soft`, `-track`, `-height`,
 * `-radius`, `-font`. States for `:state()`: the status, and `lost`.
 */
export class HeadwayProgress extends HTMLElement {
  static observedAttributes = ["execution", "src", "label", "unit"];

  #parts = {};
  #internals = this.attachInternals();
  #watching = null;
  /** What is watched, or was until it couldn't be: "execution src". */
  #key = null;
  #due = { sync: false, show: false };
  #frame = null;
  #error = null;
  #connection = "connecting";
  #announced = { at: 0, percentage: 0, words: null };
  #forget = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [style];
    const box = part("box", "div", root);
    const head = part("head", "div", box);
    const bar = part("bar", "div", box);
    const line = part("line", "div", box);
    const message = part("message", "span", line);
    const numbers = part("numbers", "span", line);
    const named = (name, parent) => part(name, "span", parent);
    this.#parts = {
      box, bar, message,
      label: named("label", head), status: named("status", head),
      fill: part("fill", "div", bar),
      percentage: named("percentage", numbers), amount: named("amount", numbers), rate: named("rate", numbers), time: named("time", numbers),
      error: part("error", "p", box), announcer: part("announcer", "div", box),
    };
    bar.role = "progressbar";
    bar.ariaValueMin = "0";
    bar.ariaValueMax = "100";
    this.#parts.announcer.role = "status"; // polite
  }

  connectedCallback() { this.#sync(); }
  disconnectedCallback() { this.#sync(); }
  attributeChangedCallback(name) {
    if (name === "execution" || name === "src") this.#sync();
    this.#render();
  }

  /** "pending", "running", "completed", "failed" or "cancelled"; null while unknown. */
  get status() { return this.#frame?.status ?? null; }
  get phase() { return this.#frame?.phase ?? null; }
  get progress() { return this.#frame?.progress ?? null; }
  get error() { return this.#error; }

  /** Once, however many attributes change and wherever in the page it is moved in one go. */
  #sync() {
    if (this.#due.sync) return;
    this.#due.sync = true;
    queueMicrotask(() => {
      this.#due.sync = false;
      const id = this.isConnected ? this.getAttribute("execution") : null;
      const key = id && `${id} ${this.getAttribute("src") ?? ""}`;
      if (key !== this.#key) this.#follow(key, id);
    });
  }

  #follow(key, id) {
    this.#watching?.stop();
    this.#forget?.();
    this.#key = key;
    this.#watching = this.#forget = null;
    if (!id && !this.isConnected) return; // as it was seen last
    this.#frame = this.#error = null;
    this.#connection = "connecting";
    this.#announced = { at: 0, percentage: 0, words: null };
    this.#render();
    if (!id) return;
    const base = this.getAttribute("src") || undefined;
    this.#watching = watch(id, {
      onStatus: (frame) => this.#take("headway-status", frame),
      onStart: (frame) => frame.type === "started" && this.#take("headway-status", frame),
      onProgress: (progress, frame) => this.#take("headway-progress", frame),
      onEnd: (frame) => this.#take("headway-end", frame),
      onConnection: (state) => { this.#connection = state; this.#render(); },
      onError: (error) => { this.#error = error; this.#render(); this.#emit("headway-error", error); },
    }, { base });
    // What was refused for want of a token is asked again with one.
    this.#forget = serverOf(base).onToken(() => this.#error?.final && this.#follow(key, id));
  }

  #take(name, frame) {
    this.#frame = { ...this.#frame, ...frame };
    this.#error = null;
    this.#render();
    this.#emit(name, frame);
  }

  #emit(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true })); }

  /** At most once a frame of the screen, and not at all while nobody sees it. */
  #render() {
    if (this.#due.show) return;
    this.#due.show = true;
    requestAnimationFrame(() => {
      this.#due.show = false;
      this.#show();
    });
  }

  #show() {
    const { status, phase, progress, error } = this.#frame ?? {};
    const unit = this.getAttribute("unit") ?? "";
    const running = status === "running";
    const parts = this.#parts;
    setText(parts.label, this.getAttribute("label") ?? "");
    parts.box.dataset.connection = this.#connection;
    parts.box.dataset.tone = this.#tone(status, phase);
    setText(parts.status, this.#words(status, phase));
    setText(parts.message, this.#message(status, phase));
    setText(parts.percentage, progress && !progress.indeterminate ? percent(progress.percentage) : "");
    setText(parts.amount, progress ? amount(progress, unit) : "");
    setText(parts.rate, progress && running ? rate(progress, unit) : "");
    setText(parts.time, progress && running ? timeLeft(progress) : "");
    setText(parts.error, error ? `${error.type}: ${error.message}` : "");
    parts.error.hidden = !error;
    this.#bar(status, progress);
    this.#states(status);
    this.#announce(status, progress);
  }

  #tone(status, phase) {
    if (this.#error?.final) return "cancelled";
    if (terminal(status)) return TONES[phase];
    return this.#error || this.#connection === "lost" ? "waiting" : TONES[phase] ?? "";
  }

  #words(status, phase) {
    if (terminal(status)) return PHASES[phase];
    if (this.#error) return OBSTACLES[this.#error.code] ?? "Can’t be watched";
    if (this.#connection === "lost") return "Connection lost, trying again";
    if (!status) return this.getAttribute("execution") ? "Connecting" : "";
    return PHASES[phase] ?? phase;
  }

  #message(status, phase) {
    const message = this.#frame?.progress?.message;
    if (message != null) return message;
    if (this.#error && !terminal(status)) return this.#error.message;
    if (status === "pending") return phase === "cancelling" ? "Ends when a worker gets to it" : "Waiting for a worker";
    return status === "running" ? "Nothing reported yet" : "";
  }

  /** An end keeps the last percentage, a cut shows what was seen: only a report moves the bar. */
  #bar(status, progress) {
    const { bar, fill } = this.#parts;
    const known = progress && !progress.indeterminate;
    bar.dataset.kind = known ? "known" : status === "running" ? "moving" : status === "completed" ? "whole" : "empty";
    fill.style.width = known ? `${progress.percentage}%` : "";
    bar.ariaLabel = this.getAttribute("label") || "Progress";
    bar.ariaValueNow = known ? String(Math.floor(progress.percentage * 10) / 10) : null;
    const { percentage, amount: done, message, status: words } = this.#parts;
    bar.ariaValueText = [percentage, known ? null : done, message, words].map((it) => it?.textContent).filter(Boolean).join(", ") || null;
  }

  #states(status) {
    const states = this.#internals.states;
    if (!states) return;
    states.clear();
    if (status) states.add(status);
    if (this.#connection === "lost") states.add("lost");
  }

  /** The state where it changes, and how far it is now and then. What was there when the page came is no news. */
  #announce(status, progress) {
    const last = this.#announced;
    const words = this.#parts.status.textContent;
    const percentage = progress && !progress.indeterminate ? progress.percentage : 0;
    const now = Date.now();
    if (last.words === null) {
      if (status || this.#error) this.#announced = { at: now, percentage, words };
      return;
    }
    const further = percentage - last.percentage >= ANNOUNCED.points && now - last.at >= ANNOUNCED.every;
    if (words === last.words && !further) return;
    this.#announced = { at: now, percentage, words };
    const { label, percentage: far, time, error } = this.#parts;
    const said = [words === last.words ? "" : words, far.textContent, time.textContent, error.textContent].filter(Boolean).join(", ");
    this.#parts.announcer.textContent = label.textContent ? `${label.textContent}: ${said}` : said;
  }
}
