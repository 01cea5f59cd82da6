// The reports of one execution: the plot, its table, and the messages.

import { count, percent } from "./api.js";
import { find, make, schedulePaint, setAttribute, setText } from "./dom.js";
import { dateAndTime, done, phaseText, timeOf } from "./format.js";
import { drawPlot, nearestReport, plotData } from "./plot.js";

/** Reports in memory. Above this number, every second report of the older half is dropped. */
const MAX_REPORTS = 2000;
const MAX_MESSAGES = 300;

export class Timeline {
  #reports = [];
  #complete = true;
  #data = null;
  #execution = null;
  /** True if the reports or the size have changed since the last paint. */
  #dirty = true;
  #size = null;
  #pointer = null;
  /** Keys of what the two lists show, for `updateList`. */
  #messageKeys = []; #rowKeys = [];
  #repaint = { paint: () => this.#execution && this.paint(this.#execution) };

  constructor() {
    const place = find("plot");
    new ResizeObserver(([{ contentRect: { width, height } }]) => {
      const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
      this.#size = { width, height, rem };
      this.#dirty = true;
      schedulePaint(this.#repaint);
    }).observe(place);
    place.addEventListener("pointermove", ({ clientX }) => this.#movePointer(clientX));
    place.addEventListener("pointerleave", () => this.#movePointer(null));
    find("reports").addEventListener("toggle", () => this.#paintTable());
  }

  reset() {
    this.#reports = [];
    this.#complete = true;
    this.#dirty = true;
    this.#execution = null;
    find("reports").open = false;
    this.#rowKeys = this.#messageKeys = [];
    find("messages").replaceChildren();
  }

  /**
   * Apply the stored history (null if the server keeps none) and the last report of `execution`.
   * Newer reports, which came over the stream, are kept.
   */
  applyHistory(history, execution) {
    const stored = history?.reports.filter((report) => report.timestamp !== null) ?? [];
    const last = stored.at(-1)?.timestamp ?? "";
    const { attempt, progress } = execution;
    const newer = this.#reports.filter((report) => !history || report.timestamp > last)
      .map((report) => ({ ...report, attempt: report.attempt ?? attempt }));
    this.#reports = [...stored, ...newer];
    this.#complete = history?.complete ?? true;
    if (progress) {
      const report = reportOf(progress, attempt, execution.updated_at);
      const latest = this.#reports.at(-1)?.timestamp ?? ""; // newer if the stream was faster
      if (report.timestamp > latest) this.#reports.push(report);
    }
    this.#dirty = true;
  }

  /**
   * Add the report of a frame. `attempt` is null if a new attempt may have started: frames don't
   * carry its number.
   */
  add(frame, attempt) {
    const report = reportOf(frame.progress, attempt, frame.timestamp);
    const last = this.#reports.at(-1);
    const isSame = (key) => last[key] === report[key];
    if (last && ["timestamp", "current", "message"].every(isSame)) return;
    this.#reports.push(report);
    if (this.#reports.length > MAX_REPORTS) {
      const half = MAX_REPORTS / 2;
      this.#reports = this.#reports.filter((_, at) => at > half || at % 2 === 0);
      this.#complete = false;
    }
    this.#dirty = true;
  }

  paint(execution) {
    this.#execution = execution;
    if (!this.#dirty) return;
    this.#dirty = false;
    this.#paintPlot(execution);
    this.#paintMessages();
    this.#paintTable();
  }

  #paintPlot(execution) {
    const data = (this.#data = plotData(this.#reports, execution.started_at));
    find("reports").hidden = !this.#reports.length;
    if (data && this.#size?.width) {
      const { points } = data;
      const last = done(points.at(-1).report);
      const label = `Progress over time: ${points.length} reports, the last one ${last}; `
        + phaseText(execution.phase);
      find("plot").replaceChildren(drawPlot(data, label, this.#size));
    } else find("plot").replaceChildren();
    setAttribute(find("timeline"), "data-empty", data ? null : "true");
    this.#paintCaption();
  }

  #movePointer(clientX) {
    this.#pointer = clientX;
    this.#paintCaption();
  }

  /** The report at the pointer; without a pointer, what the plot shows. */
  #paintCaption() {
    const data = this.#data;
    const caption = find("plot-caption");
    const cursor = find("plot").querySelector(".cursor");
    if (!data || !cursor) {
      return setText(caption, "No plot yet: the task has not reported a count.");
    }
    if (this.#pointer === null) {
      cursor.style.transform = "";
      const thinned = this.#complete ? "" : "; some reports are omitted";
      return setText(caption, `${data.known ? "Percentage" : "Count"} over time${thinned}`);
    }
    const left = this.#pointer - find("plot").getBoundingClientRect().left;
    const { report, x } = nearestReport(data, left, this.#size);
    cursor.style.transform = `translateX(${x + 9}px)`;
    const texts = [timeOf(report.timestamp), done(report), report.message];
    setText(caption, texts.filter(Boolean).join(" · "));
  }

  /** The messages, newest first; a repeated message is shown once. */
  #paintMessages() {
    const messages = [];
    for (const report of this.#reports) {
      const { message, attempt } = report;
      const last = messages.at(-1);
      const isRepeated = message === last?.message && attempt === last?.attempt;
      if (message && !isRepeated) messages.push(report);
    }
    find("no-messages").hidden = messages.length > 0;
    const render = (report) => make("li", {},
      make("time", { datetime: report.timestamp }, dateAndTime(report.timestamp)),
      make("span", {}, report.message), make("b", {}, done(report)));
    this.#messageKeys = updateList(messages.slice(-MAX_MESSAGES), this.#messageKeys, {
      place: find("messages"), insert: (list, item) => list.prepend(item), render,
    });
  }

  /** The data of the plot as a table, also for screen readers. Built when it is opened. */
  #paintTable() {
    const details = find("reports");
    if (!details.open) return;
    const place = details.querySelector(".scroll");
    if (!this.#rowKeys.length || !place.firstElementChild) {
      this.#rowKeys = [];
      const heads = ["Time", "Attempt", "Done", "Of", "Percent", "Message"]
        .map((name) => make("th", { scope: "col" }, name));
      const head = make("thead", {}, make("tr", {}, ...heads));
      place.replaceChildren(make("table", {}, head, make("tbody")));
    }
    const number = (value) => (value === null ? "" : count(value));
    const render = (report) => {
      const cells = [
        timeOf(report.timestamp), String(report.attempt), number(report.current),
        number(report.total), report.indeterminate ? "" : percent(report.percentage),
        report.message ?? "",
      ];
      return make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
    };
    this.#rowKeys = updateList(this.#reports, this.#rowKeys, {
      place: place.querySelector("tbody"), insert: (body, row) => body.append(row), render,
    });
  }
}

/** A report in the shape of the history; without a timestamp, it gets the time of its arrival. */
const reportOf = (progress, attempt, arrivedAt) =>
  ({ ...progress, attempt, timestamp: progress.timestamp ?? arrivedAt });

const keyOf = (report) => `${report.attempt} ${report.timestamp} ${report.message}`;

/**
 * Add the new items of a list to the page. Rebuilds the list if the shown items are not its first
 * ones any more. Returns the keys that are shown now, for the next call.
 */
function updateList(items, shown, { place, insert, render }) {
  const keys = items.map(keyOf);
  const continues = shown.length && shown.length <= keys.length
    && shown.every((key, at) => key === keys[at]);
  if (!continues) place.replaceChildren();
  for (const item of items.slice(continues ? shown.length : 0)) insert(place, render(item));
  return keys;
}
