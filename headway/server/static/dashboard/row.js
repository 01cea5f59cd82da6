// One execution in the list.

import { find, paintBar, schedulePaint, setAttribute, setText } from "./dom.js";
import {
  age, applyFrame, barOf, dateAndTime, errorText, isMoving, isTerminal, mergeStaleRow, nameOf,
  numbers, phaseText, placeholder,
} from "./format.js";

/** Status texts for executions that can no longer be watched, by error code. */
const ERROR_TEXTS = { not_found: "Not found", expired: "Expired", not_allowed: "Not allowed" };

export class Row {
  #parts; #errorText = null; #lastFrameAt = -1;

  constructor(execution) {
    this.execution = execution;
    this.element = find("row").content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.#parts = {
      state: part(".state"), name: part(".name span"), message: part(".message"),
      bar: part(".bar"), numbers: part(".numbers"), worker: part(".worker"),
      attempt: part(".attempt"), time: part("time"),
    };
    this.element.dataset.id = this.id;
    part(".name").href = `#/${encodeURIComponent(this.id)}`;
    setText(part(".name code"), this.id.slice(0, 8)); // distinguishes executions of the same task
    this.paint();
  }

  get id() { return this.execution.execution_id; }

  get ended() { return isTerminal(this.execution.status) || this.#errorText !== null; }

  /** Apply a response of the API; `requestedAt` is the `performance.now()` of its request. */
  applyRow(row, requestedAt) {
    const stale = this.#lastFrameAt > requestedAt;
    this.execution = stale ? mergeStaleRow(row, this.execution) : row;
    schedulePaint(this);
  }

  /** Apply a frame. Returns true if more has changed than frames carry: then fetch it again. */
  applyFrame(frame) {
    this.#lastFrameAt = performance.now();
    const { phase } = this.execution;
    this.execution = applyFrame(this.execution, frame);
    schedulePaint(this);
    return phase !== frame.phase;
  }

  /** The execution can no longer be watched. */
  setError(code) {
    this.#errorText = ERROR_TEXTS[code] ?? "Not available";
    schedulePaint(this);
  }

  get #since() { return this.execution.created_at ?? this.execution.started_at; }

  /** Update only the age; the list calls it every few seconds. */
  updateAge(now) {
    setText(this.#parts.time, this.#since ? age(this.#since, now) : "");
  }

  paint() {
    const { execution } = this;
    const { state, name, message, bar, numbers: line, worker, attempt, time } = this.#parts;
    const { status, phase, error, progress } = execution;
    setAttribute(this.element, "data-status", status);
    setAttribute(this.element, "data-phase", this.#errorText ? "unavailable" : phase);
    setText(state, this.#errorText ?? phaseText(phase));
    setText(name, nameOf(execution));
    setText(message, error ? errorText(error) : progress?.message ?? placeholder(execution));
    paintBar(bar, nameOf(execution), barOf(execution));
    setText(line, numbers(progress, isMoving(execution)));
    setText(worker, execution.worker ?? "");
    setAttribute(worker, "title", execution.worker);
    setText(attempt, execution.attempt > 1 ? `Attempt ${execution.attempt}` : "");
    setAttribute(time, "datetime", this.#since);
    setAttribute(time, "title", this.#since ? dateAndTime(this.#since) : null);
    this.updateAge(Date.now());
  }
}
