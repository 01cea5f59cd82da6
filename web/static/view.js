// One job of the list. Everything that a task reports is set as text, never as HTML.

import { PHASES, amount, duration, percent, rate, timeLeft } from "../headway.js";

/** Status texts by connection: of errors, and of a lost connection. */
const CONNECTION_TEXTS = {
  lost: "Connection lost, reconnecting", unavailable: "Result backend unavailable",
  not_authenticated: "Token required", not_found: "Not found", expired: "Expired",
  not_allowed: "Not allowed",
};
/** Errors after which the job cannot be watched. */
const FINAL = ["not_found", "expired", "not_allowed"];

const TERMINAL = ["completed", "failed", "cancelled"];
export const isTerminal = (status) => TERMINAL.includes(status);

const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };

function numbers(progress, unit, running) {
  const parts = [];
  if (!progress.indeterminate) parts.push(percent(progress.percentage));
  parts.push(amount(progress, unit));
  if (running) parts.push(unit === "steps" ? "" : rate(progress, unit), timeLeft(progress));
  // Lines break between the parts, not inside a part.
  return parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export class JobView {
  #part; #job; #problem = "";
  #execution = { status: "pending", phase: "queued", progress: null };

  /** The buttons call `on.remove()` and `on.cancel()`. */
  constructor(template, job, on) {
    this.#job = job;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#part = (selector) => this.element.querySelector(selector);
    const [remove, cancel] = [this.#part(".remove"), this.#part(".cancel")];
    this.#part("h3").textContent = job.title;
    this.#part(".bar").setAttribute("aria-label", job.title);
    this.#part(".id").textContent = job.id;
    remove.setAttribute("aria-label", `Remove ${job.title}`);
    remove.addEventListener("click", on.remove);
    cancel.setAttribute("aria-label", `Cancel ${job.title}`);
    cancel.addEventListener("click", () => cancel.ariaDisabled !== "true" && on.cancel());
    this.element.dataset.id = job.id;
    this.#paint();
  }

  get ended() {
    return isTerminal(this.#execution.status) || FINAL.includes(this.element.dataset.connection);
  }

  get title() { return this.#part("h3").textContent; }

  /** The state as a sentence for screen readers. */
  get sentence() {
    const error = this.#execution.error ? `. ${this.#part(".error").textContent}` : "";
    return `${this.title}: ${this.#part(".state").textContent}${error}`;
  }

  applyFrame(frame) {
    const execution = { ...this.#execution, status: frame.status, phase: frame.phase };
    if (!isTerminal(frame.status)) execution.error = execution.outputs = null; // a new attempt
    for (const key of ["progress", "error", "outputs"]) {
      if (key in frame) execution[key] = frame[key];
    }
    this.#execution = execution;
    this.#paint();
  }

  /** Apply what frames don't carry. Everything else stays: the frames may be newer. */
  applyDetails({ task, attempt, created_at, started_at, finished_at }) {
    Object.assign(this.#execution, { task, attempt, created_at, started_at, finished_at });
    this.#paint();
  }

  /** @param {string} state "live", "ended", or a key of `CONNECTION_TEXTS` */
  setConnection(state, reason = "") {
    this.element.dataset.connection = state;
    this.element.dataset.reason = reason;
    this.#paint();
  }

  /** The error of the job's own button; "" for none. */
  setProblem(text) {
    this.#problem = text;
    this.#paint();
  }

  #paint() {
    const { status, phase, progress, error, outputs, task } = this.#execution;
    const { connection } = this.element.dataset;
    const ended = isTerminal(status);
    this.element.dataset.status = status;
    this.element.dataset.phase = phase;
    if (task && this.#job.title === this.#job.id) this.#part("h3").textContent = task;
    const state = (!ended && CONNECTION_TEXTS[connection]) || PHASES[phase] || phase;
    this.#part(".state").textContent = state;
    this.#paintBar(status, progress);
    const placeholder = ended ? "" : this.#placeholder(status, connection);
    this.#part(".message").textContent = progress?.message ?? placeholder;
    const running = status === "running";
    const line = progress ? numbers(progress, this.#job.unit, running) : "";
    this.#part(".numbers").textContent = line;
    this.#part(".error").hidden = !error && !this.#problem;
    this.#part(".error").textContent = error ? `${error.type}: ${error.message}` : this.#problem;
    this.#paintCancel(phase);
    this.#paintAttributes(progress?.attributes ?? {});
    this.#part(".when").textContent = this.#when();
    this.#part(".outputs").hidden = status !== "completed" || outputs == null;
    if (status === "completed") this.#part("pre").textContent = JSON.stringify(outputs, null, 2);
  }

  /**
   * Shown while the job can be cancelled. After a request it is not `disabled`: that would take the
   * focus away from keyboard users.
   */
  #paintCancel(phase) {
    const button = this.#part(".cancel");
    if (this.ended && button === document.activeElement) this.#part(".remove").focus();
    button.hidden = this.ended;
    button.ariaDisabled = String(phase === "cancelling");
  }

  #placeholder(status, connection) {
    const { reason } = this.element.dataset;
    if ([...FINAL, "lost", "unavailable"].includes(connection)) return reason;
    if (this.#execution.phase === "cancelling" && status === "pending") {
      return "Ends when a worker receives it";
    }
    return status === "running" ? "No progress reported yet" : "Waiting for a worker";
  }

  /** Only a report moves the bar: the end keeps the last percentage. */
  #paintBar(status, progress) {
    const bar = this.#part(".bar");
    const percentage = progress && !progress.indeterminate ? progress.percentage : null;
    const known = percentage !== null;
    const kinds = { running: "moving", completed: "whole" };
    bar.dataset.kind = known ? "known" : kinds[status] ?? "empty";
    this.#part(".fill").style.width = known ? `${percentage}%` : "";
    bar.ariaValueNow = known ? String(Math.floor(percentage * 10) / 10) : null;
    const share = known ? `${percent(percentage)}, ` : "";
    bar.ariaValueText = progress?.message ? `${share}${progress.message}` : null;
  }

  #paintAttributes(attributes) {
    const list = this.#part(".attributes");
    const entries = Object.entries(attributes);
    // Usually the keys stay the same: then only texts change, which keeps a selection.
    if (list.childElementCount !== entries.length) {
      list.replaceChildren(...entries.map(() => {
        const pair = document.createElement("div");
        pair.append(document.createElement("dt"), document.createElement("dd"));
        return pair;
      }));
    }
    entries.forEach(([key, value], at) => {
      const [name, text] = list.children[at].children;
      setText(name, key);
      setText(text, value);
    });
  }

  #when() {
    const { started_at: started, finished_at: finished, created_at, attempt } = this.#execution;
    const parts = [];
    if (created_at) parts.push(new Date(created_at).toLocaleTimeString("en", clock));
    if (started && finished) {
      parts.push(`took ${duration((Date.parse(finished) - Date.parse(started)) / 1000)}`);
    }
    if (attempt > 1) parts.push(`attempt ${attempt}`);
    return parts.join(" · ");
  }
}
