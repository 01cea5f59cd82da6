// One job of the list, as elements. Text is set as text, never as HTML: a task may report anything.

import { PHASES, amount, duration, percent, rate, timeLeft } from "../headway.js";

const LINKS = {
  lost: "Connection lost, trying again", away: "The result backend is away",
  locked: "Wants a token", unknown: "Not found", expired: "Expired", forbidden: "Not allowed",
};

export const terminal = (status) => ["completed", "failed", "cancelled"].includes(status);

function numbers(progress, unit, running) {
  const parts = [progress.indeterminate ? "" : percent(progress.percentage), amount(progress, unit)];
  if (running) parts.push(unit === "steps" ? "" : rate(progress, unit), timeLeft(progress));
  // A line breaks between the parts, not inside one.
  return parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

export class JobView {
  #part; #job; #problem = ""; #seen = { status: "pending", phase: "queued", progress: null };

  /** `on.remove()` and `on.cancel()` are what the buttons do. */
  constructor(template, job, on) {
    this.#job = job;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#part = (name) => this.element.querySelector(name);
    this.#part("h3").textContent = job.title;
    this.#part(".bar").setAttribute("aria-label", job.title);
    this.#part(".id").textContent = job.id;
    this.#part(".remove").setAttribute("aria-label", `Remove ${job.title}`);
    this.#part(".remove").addEventListener("click", on.remove);
    this.#part(".cancel").setAttribute("aria-label", `Cancel ${job.title}`);
    this.#part(".cancel").addEventListener("click", ({ target }) => target.ariaDisabled !== "true" && on.cancel());
    this.element.dataset.id = job.id;
    this.#show();
  }

  get ended() { return terminal(this.#seen.status) || ["unknown", "expired", "forbidden"].includes(this.element.dataset.link); }

  get title() { return this.#part("h3").textContent; }

  /** What an end sounds like; for the announcer. */
  get sentence() {
    return `${this.title}: ${this.#part(".state").textContent}${this.#seen.error ? `. ${this.#part(".error").textContent}` : ""}`;
  }

  frame(frame) {
    const seen = { ...this.#seen, status: frame.status, phase: frame.phase };
    if (!terminal(frame.status)) seen.error = seen.outputs = null; // a new attempt begins afresh
    if ("progress" in frame) seen.progress = frame.progress;
    if ("error" in frame) seen.error = frame.error;
    if ("outputs" in frame) seen.outputs = frame.outputs;
    this.#seen = seen;
    this.#show();
  }

  /** What no frame says. The rest of the execution is left alone: the frames may be newer. */
  facts({ task, attempt, created_at, started_at, finished_at }) {
    Object.assign(this.#seen, { task, attempt, created_at, started_at, finished_at });
    this.#show();
  }

  link(state, text) {
    this.element.dataset.link = state;
    this.element.dataset.why = text ?? "";
    this.#show();
  }

  /** What went wrong with a button of the job's own; "" for nothing. */
  problem(text) {
    this.#problem = text;
    this.#show();
  }

  #show() {
    const { status, phase, progress, error, outputs, task } = this.#seen;
    const link = this.element.dataset.link;
    this.element.dataset.status = status;
    this.element.dataset.phase = phase;
    if (task && this.#job.title === this.#job.id) this.#part("h3").textContent = task;
    this.#part(".state").textContent = (!terminal(status) && LINKS[link]) || PHASES[phase] || phase;
    this.#bar(status, progress);
    this.#part(".message").textContent = progress?.message ?? (terminal(status) ? "" : this.#waiting(status, link));
    this.#part(".numbers").textContent = progress ? numbers(progress, this.#job.unit, status === "running") : "";
    this.#part(".error").hidden = !error && !this.#problem;
    this.#part(".error").textContent = error ? `${error.type}: ${error.message}` : this.#problem;
    this.#cancel(phase);
    this.#attributes(progress?.attributes ?? {});
    this.#part(".when").textContent = this.#when();
    this.#part(".outputs").hidden = status !== "completed" || outputs == null;
    if (status === "completed") this.#part("pre").textContent = JSON.stringify(outputs, null, 2);
  }

  /** There while it can be cancelled. Asked for, it isn't disabled: that would take the focus from who uses the keyboard. */
  #cancel(phase) {
    const button = this.#part(".cancel");
    if (this.ended && button === document.activeElement) this.#part(".remove").focus();
    button.hidden = this.ended;
    button.ariaDisabled = String(phase === "cancelling");
  }

  #waiting(status, link) {
    if (["unknown", "expired", "forbidden", "lost", "away"].includes(link)) return this.element.dataset.why;
    if (this.#seen.phase === "cancelling" && status === "pending") return "Ends when a worker gets to it";
    return status === "running" ? "Running, nothing reported yet" : "Waiting for a worker";
  }

  /** An end keeps the last percentage: only a report moves the bar. */
  #bar(status, progress) {
    const bar = this.#part(".bar");
    const known = progress && !progress.indeterminate;
    bar.dataset.kind = known ? "known" : status === "running" ? "moving" : status === "completed" ? "whole" : "empty";
    this.#part(".fill").style.width = known ? `${progress.percentage}%` : "";
    if (known) bar.setAttribute("aria-valuenow", String(Math.floor(progress.percentage * 10) / 10));
    else bar.removeAttribute("aria-valuenow");
    if (progress?.message) bar.setAttribute("aria-valuetext", `${known ? `${percent(progress.percentage)}, ` : ""}${progress.message}`);
    else bar.removeAttribute("aria-valuetext");
  }

  #attributes(attributes) {
    const list = this.#part(".attributes");
    const pairs = Object.entries(attributes);
    // The same keys again and again: only their texts change, so that the eye (and a selection) isn't disturbed.
    if (list.childElementCount !== pairs.length) {
      list.replaceChildren(...pairs.map(() => {
        const pair = document.createElement("div");
        pair.append(document.createElement("dt"), document.createElement("dd"));
        return pair;
      }));
    }
    pairs.forEach(([key, value], at) => {
      const [name, text] = list.children[at].children;
      if (name.textContent !== key) name.textContent = key;
      if (text.textContent !== value) text.textContent = value;
    });
  }

  #when() {
    const { started_at: started, finished_at: finished, created_at: created, attempt } = this.#seen;
    const parts = [];
    if (created) parts.push(new Date(created).toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }));
    if (started && finished) parts.push(`took ${duration((Date.parse(finished) - Date.parse(started)) / 1000)}`);
    if (attempt > 1) parts.push(`attempt ${attempt}`);
    return parts.join(" · ");
  }
}
