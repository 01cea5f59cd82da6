// One execution in the list.

import { attribute, find, paint, text } from "./dom.js";
import { after, age, bar, moment, moving, numbers, overtaken, phaseWord, terminal } from "./words.js";

/** What a row says where its execution can't be seen any more. */
const GONE = { not_found: "Not found", expired: "Expired", not_allowed: "Not allowed" };

export class Row {
  #part; #gone = null; #heard = -1;

  constructor(seen) {
    this.seen = seen;
    this.element = find("row").content.firstElementChild.cloneNode(true);
    const part = (name) => this.element.querySelector(name);
    this.#part = {
      state: part(".state"), name: part(".name span"), message: part(".message"), bar: part(".bar"), fill: part(".fill"),
      numbers: part(".numbers"), worker: part(".worker"), attempt: part(".attempt"), time: part("time"),
    };
    this.element.dataset.id = seen.execution_id;
    part(".name").href = `#/${encodeURIComponent(seen.execution_id)}`;
    text(part(".name code"), seen.execution_id.slice(0, 8)); // tells those of one task apart
    this.paint();
  }

  get id() { return this.seen.execution_id; }

  get ended() { return terminal(this.seen.status) || this.#gone !== null; }

  /** A line of the API, that was asked for at `asked` (as `performance.now()` says it). */
  look(line, asked) {
    this.seen = this.#heard > asked ? overtaken(line, this.seen) : line;
    paint(this);
  }

  /** A frame of the stream; true where more has changed than it says, and another look is worth it. */
  frame(frame) {
    this.#heard = performance.now();
    const { phase } = this.seen;
    this.seen = after(this.seen, frame);
    paint(this);
    return phase !== frame.phase;
  }

  /** It can't be watched any more, for good. */
  gone(code) {
    this.#gone = GONE[code] ?? "Not available";
    paint(this);
  }

  /** Age alone; the list calls it now and then. */
  tick(now) {
    const { created_at: created, started_at: started } = this.seen;
    const since = created ?? started;
    text(this.#part.time, since ? age(since, now) : "");
  }

  paint() {
    const { seen } = this;
    const { state, name, message, bar: track, fill, numbers: line, worker, attempt, time } = this.#part;
    const shown = bar(seen);
    attribute(this.element, "data-status", seen.status);
    attribute(this.element, "data-phase", this.#gone ? "gone" : seen.phase);
    text(state, this.#gone ?? phaseWord(seen.phase));
    text(name, seen.task ?? seen.execution_id);
    text(message, seen.error ? `${seen.error.type}: ${seen.error.message}` : seen.progress?.message ?? waiting(seen));
    attribute(track, "aria-label", seen.task ?? seen.execution_id);
    attribute(track, "aria-valuenow", shown.now);
    attribute(track, "aria-valuetext", shown.words);
    attribute(track, "data-kind", shown.kind);
    // Scaled and not resized: the compositor does it, nothing is laid out anew.
    fill.style.transform = shown.scale === null ? "" : `translateX(${shown.scale * 100 - 100}%)`;
    text(line, numbers(seen.progress, moving(seen)));
    text(worker, seen.worker ?? "");
    attribute(worker, "title", seen.worker);
    text(attempt, seen.attempt > 1 ? `Attempt ${seen.attempt}` : "");
    const since = seen.created_at ?? seen.started_at;
    attribute(time, "datetime", since);
    attribute(time, "title", since ? moment(since) : null);
    this.tick(Date.now());
  }
}

function waiting(seen) {
  if (seen.phase === "cancelling" && seen.status === "pending") return "Ends when a worker gets to it";
  if (seen.status === "pending") return "Waiting for a worker";
  return seen.status === "running" ? "Nothing reported yet" : "";
}
