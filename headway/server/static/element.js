// <headway-progress execution="ID">: one execution as a progress bar with text. Everything that a
// task reports is set as text, never as HTML.

import { clientFor } from "./api-client.js";
import { style } from "./element-style.js";
import { isTerminal } from "./execution-state.js";
import { PHASES, amount, percent, rate, roundDown, timeLeft } from "./format.js";
import { watch } from "./watch.js";

/** Status texts for errors, by their code. */
const ERROR_TEXTS = {
  not_found: "Not found", expired: "Expired", not_allowed: "Not allowed",
  not_authenticated: "Token required", invalid: "Not found",
  unavailable: "Result backend unavailable",
};
/** Colour names by phase; any other phase has the accent colour. */
const STATUS_STYLES = {
  queued: "waiting", retrying: "waiting", stalled: "waiting", cancelling: "waiting",
  succeeded: "done", failed: "failed", cancelled: "cancelled",
};

/** Limits for announcing progress to screen readers: milliseconds and percentage points. */
const ANNOUNCE = { interval: 10_000, points: 10 };

function part(name, tag = "span", parent = null) {
  const element = document.createElement(tag);
  element.className = name;
  element.part = name;
  parent?.append(element);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Attributes: `execution` (its id), `src` (another server's API, `https://other.example/api/v1`),
 * `label` (the name of the job, visible and for screen readers), `unit` (of the counts; "bytes" are
 * shown as kB and MB). Changing `execution` or `src` starts a new watch.
 *
 * Events, which bubble out of shadow roots: `headway-status`, `headway-progress` and `headway-end`
 * with the frame as `detail`, `headway-error` with the error. Parts: box, label, status, bar, fill,
 * message, numbers, percentage, amount, rate, time, error. Custom properties: `--headway-accent`,
 * `-done`, `-failed`, `-waiting`, `-cancelled`, `-text`, `-soft`, `-track`, `-height`, `-radius`,
 * `-font`. States for `:state()`: the status, and `lost`.
 */
export class HeadwayProgress extends HTMLElement {
  static observedAttributes = ["execution", "src", "label", "unit"];

  #parts = {};
  #internals = this.attachInternals();
  #watching = null;
  /** The watched execution, kept after a final error: "execution src". */
  #key = null;
  #scheduled = { sync: false, render: false };
  #frame = null;
  #error = null;
  #connection = "connecting";
  #announced = { at: 0, percentage: 0, status: null };
  #removeTokenListener = null;

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
    const span = (name, parent) => part(name, "span", parent);
    this.#parts = {
      box, bar, message,
      label: span("label", head), status: span("status", head),
      fill: part("fill", "div", bar),
      percentage: span("percentage", numbers), amount: span("amount", numbers),
      rate: span("rate", numbers), time: span("time", numbers),
      error: part("error", "p", box), announcer: part("announcer", "div", box),
    };
    bar.role = "progressbar";
    bar.ariaValueMin = "0";
    bar.ariaValueMax = "100";
    this.#parts.announcer.role = "status"; // polite
  }

  connectedCallback() { this.#scheduleSync(); }
  disconnectedCallback() { this.#scheduleSync(); }
  attributeChangedCallback(name) {
    if (name === "execution" || name === "src") this.#scheduleSync();
    this.#scheduleRender();
  }

  /** "pending", "running", "completed", "failed" or "cancelled"; null while unknown. */
  get status() { return this.#frame?.status ?? null; }
  get phase() { return this.#frame?.phase ?? null; }
  get progress() { return this.#frame?.progress ?? null; }
  get error() { return this.#error; }

  /** One update per task, even if several attributes change or the element moves in the page. */
  #scheduleSync() {
    if (this.#scheduled.sync) return;
    this.#scheduled.sync = true;
    queueMicrotask(() => {
      this.#scheduled.sync = false;
      const id = this.isConnected ? this.getAttribute("execution") : null;
      const key = id && `${id} ${this.getAttribute("src") ?? ""}`;
      if (key !== this.#key) this.#watch(key, id);
    });
  }

  #watch(key, id) {
    this.#watching?.stop();
    this.#removeTokenListener?.();
    this.#key = key;
    this.#watching = this.#removeTokenListener = null;
    if (!id && !this.isConnected) return; // keeps its last state
    this.#frame = this.#error = null;
    this.#connection = "connecting";
    this.#announced = { at: 0, percentage: 0, status: null };
    this.#scheduleRender();
    if (!id) return;
    const base = this.getAttribute("src") || undefined;
    this.#watching = watch(id, {
      onStatus: (frame) => this.#onFrame("headway-status", frame),
      onStart: (frame) => frame.type === "started" && this.#onFrame("headway-status", frame),
      onProgress: (progress, frame) => this.#onFrame("headway-progress", frame),
      onEnd: (frame) => this.#onFrame("headway-end", frame),
      onConnection: (state) => { this.#connection = state; this.#scheduleRender(); },
      onError: (error) => {
        this.#error = error;
        this.#scheduleRender();
        this.#emit("headway-error", error);
      },
    }, { base });
    // Retry with the new token after a refusal.
    this.#removeTokenListener = clientFor(base).onTokenChange(() => {
      if (this.#error?.final) this.#watch(key, id);
    });
  }

  #onFrame(event, frame) {
    this.#frame = { ...this.#frame, ...frame };
    this.#error = null;
    this.#scheduleRender();
    this.#emit(event, frame);
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  /** At most once per animation frame, and not at all while the page is hidden. */
  #scheduleRender() {
    if (this.#scheduled.render) return;
    this.#scheduled.render = true;
    requestAnimationFrame(() => {
      this.#scheduled.render = false;
      this.#render();
    });
  }

  #render() {
    const { status, phase, progress, error } = this.#frame ?? {};
    const unit = this.getAttribute("unit") ?? "";
    const running = status === "running";
    const known = progress && !progress.indeterminate;
    const parts = this.#parts;
    setText(parts.label, this.getAttribute("label") ?? "");
    parts.box.dataset.connection = this.#connection;
    parts.box.dataset.tone = this.#statusStyle(status, phase);
    setText(parts.status, this.#statusText(status, phase));
    setText(parts.message, this.#message(status, phase));
    setText(parts.percentage, known ? percent(progress.percentage) : "");
    setText(parts.amount, progress ? amount(progress, unit) : "");
    setText(parts.rate, progress && running ? rate(progress, unit) : "");
    setText(parts.time, progress && running ? timeLeft(progress) : "");
    setText(parts.error, error ? `${error.type}: ${error.message}` : "");
    parts.error.hidden = !error;
    this.#renderBar(status, known ? progress.percentage : null);
    this.#setStates(status);
    this.#announce(status, known ? progress.percentage : 0);
  }

  #statusStyle(status, phase) {
    if (this.#error?.final) return "cancelled";
    if (isTerminal(status)) return STATUS_STYLES[phase];
    const outage = this.#error || this.#connection === "lost";
    return outage ? "waiting" : STATUS_STYLES[phase] ?? "";
  }

  #statusText(status, phase) {
    if (isTerminal(status)) return PHASES[phase];
    if (this.#error) return ERROR_TEXTS[this.#error.code] ?? "Cannot be watched";
    if (this.#connection === "lost") return "Connection lost, reconnecting";
    if (!status) return this.getAttribute("execution") ? "Connecting" : "";
    return PHASES[phase] ?? phase;
  }

  #message(status, phase) {
    const message = this.#frame?.progress?.message;
    if (message != null) return message;
    if (this.#error && !isTerminal(status)) return this.#error.message;
    if (status === "pending") {
      return phase === "cancelling" ? "Ends when a worker receives it" : "Waiting for a worker";
    }
    return status === "running" ? "No progress reported yet" : "";
  }

  /** Only a report moves the bar: the end and a lost connection keep the last percentage. */
  #renderBar(status, percentage) {
    const { bar, fill, percentage: share, amount: done, message, status: text } = this.#parts;
    const known = percentage !== null;
    const kinds = { running: "moving", completed: "whole" };
    bar.dataset.kind = known ? "known" : kinds[status] ?? "empty";
    fill.style.width = known ? `${percentage}%` : "";
    bar.ariaLabel = this.getAttribute("label") || "Progress";
    bar.ariaValueNow = known ? String(roundDown(percentage)) : null;
    const texts = [share, known ? null : done, message, text].map((it) => it?.textContent);
    bar.ariaValueText = texts.filter(Boolean).join(", ") || null;
  }

  #setStates(status) {
    const states = this.#internals.states;
    if (!states) return;
    states.clear();
    if (status) states.add(status);
    if (this.#connection === "lost") states.add("lost");
  }

  /** Announce each change of the status text, and progress within `ANNOUNCE`; no first state. */
  #announce(status, percentage) {
    const last = this.#announced;
    const { label, status: { textContent: text }, percentage: share, time, error } = this.#parts;
    const next = { at: Date.now(), percentage, status: text };
    if (last.status === null) {
      if (status || this.#error) this.#announced = next;
      return;
    }
    const progressed = percentage - last.percentage >= ANNOUNCE.points
      && next.at - last.at >= ANNOUNCE.interval;
    if (text === last.status && !progressed) return;
    this.#announced = next;
    const sentence = [text === last.status ? "" : text, share.textContent, time.textContent,
      error.textContent].filter(Boolean).join(", ");
    const name = label.textContent;
    this.#parts.announcer.textContent = name ? `${name}: ${sentence}` : sentence;
  }
}
