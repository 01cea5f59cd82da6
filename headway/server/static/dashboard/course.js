// The reports of one execution: the plot, its table, and what was said when.

import { attribute, find, make, paint, text } from "./dom.js";
import { course, nearest, plot } from "./plot.js";
import { count, percent } from "./api.js";
import { done, moment, phaseWord, time } from "./words.js";

const MOST = 2000; // reports that a page which stays open keeps; then every second of the older half goes
const SHOWN = 300; // messages

export class Course {
  #reports = []; #complete = true; #drawn = null; #told = []; #rows = []; #dirty = true; #size = null; #seen = null; #pointer = null;
  #anew = { paint: () => this.#seen && this.paint(this.#seen) };

  constructor() {
    const place = find("plot");
    new ResizeObserver(([{ contentRect: { width, height } }]) => {
      this.#size = { width, height, rem: parseFloat(getComputedStyle(document.documentElement).fontSize) };
      this.#dirty = true;
      paint(this.#anew);
    }).observe(place);
    place.addEventListener("pointermove", ({ clientX }) => { this.#pointer = clientX; this.#point(); });
    place.addEventListener("pointerleave", () => { this.#pointer = null; this.#point(); });
    find("table").addEventListener("toggle", () => this.#table());
  }

  begin() {
    this.#reports = [];
    this.#complete = true;
    this.#dirty = true;
    this.#seen = null;
    find("table").open = false;
    this.#rows = this.#told = [];
    find("said").replaceChildren();
  }

  /** What is on record (null: nothing is kept), and the last report; what the stream has said since stays. */
  take(past, seen) {
    const kept = past?.reports.filter((report) => report.timestamp !== null) ?? [];
    const last = kept.at(-1)?.timestamp ?? "";
    const since = past ? this.#reports.filter((report) => report.timestamp > last) : this.#reports;
    this.#reports = [...kept, ...since.map((report) => ({ ...report, attempt: report.attempt ?? seen.attempt }))];
    this.#complete = past?.complete ?? true;
    if (seen.progress) {
      const report = reportOf(seen.progress, seen.attempt, seen.updated_at);
      if (report.timestamp > (this.#reports.at(-1)?.timestamp ?? "")) this.#reports.push(report); // else the stream was faster
    }
    this.#dirty = true;
  }

  /** What a frame says of it; `attempt` is null while a new one may have begun whose number no frame tells. */
  add(frame, attempt) {
    const report = reportOf(frame.progress, attempt, frame.timestamp);
    const last = this.#reports.at(-1);
    if (last && last.timestamp === report.timestamp && last.current === report.current && last.message === report.message) return;
    this.#reports.push(report);
    if (this.#reports.length > MOST) {
      const half = MOST / 2;
      this.#reports = this.#reports.filter((_, at) => at > half || at % 2 === 0);
      this.#complete = false;
    }
    this.#dirty = true;
  }

  paint(seen) {
    this.#seen = seen;
    if (!this.#dirty) return;
    this.#dirty = false;
    this.#plot(seen);
    this.#messages();
    this.#table();
  }

  #plot(seen) {
    const drawn = (this.#drawn = course(this.#reports, seen.started_at));
    find("table").hidden = !this.#reports.length;
    const label = drawn ? `Progress over time: ${drawn.points.length} reports, the last one ${done(drawn.points.at(-1).report)}; ${phaseWord(seen.phase)}` : "";
    if (drawn && this.#size?.width) find("plot").replaceChildren(plot(drawn, label, this.#size));
    else find("plot").replaceChildren();
    attribute(find("course"), "data-empty", drawn ? null : "true");
    this.#point();
  }

  /** What stood where the pointer is; without one, what the plot shows. */
  #point() {
    const drawn = this.#drawn;
    const cross = find("plot").querySelector(".cross");
    if (!drawn || !cross) return text(find("readout"), "Nothing to draw yet: it has reported no count.");
    if (this.#pointer === null) {
      cross.style.transform = "";
      const thinned = this.#complete ? "" : "; of many, some were left out";
      return text(find("readout"), `${drawn.known ? "Percent done" : "Count"} over time${thinned}`);
    }
    const { report, x } = nearest(drawn, this.#pointer - find("plot").getBoundingClientRect().left, this.#size);
    cross.style.transform = `translateX(${x + 9}px)`;
    text(find("readout"), [time(report.timestamp), done(report), report.message].filter(Boolean).join(" · "));
  }

  /** What was said, the newest first; the same said again is one message. */
  #messages() {
    const said = [];
    for (const report of this.#reports) {
      if (report.message && (report.message !== said.at(-1)?.message || report.attempt !== said.at(-1).attempt)) said.push(report);
    }
    find("unsaid").hidden = said.length > 0;
    this.#told = append(find("said"), said.slice(-SHOWN), this.#told, (list, item) => list.prepend(item), (report) =>
      make("li", {}, make("time", { datetime: report.timestamp }, moment(report.timestamp)), make("span", {}, report.message), make("b", {}, done(report))));
  }

  /** The plot for who can't see it, or wants the numbers; made when it is asked for. */
  #table() {
    const details = find("table");
    if (!details.open) return;
    const place = details.querySelector(".scroll");
    if (!this.#rows.length || !place.firstElementChild) {
      this.#rows = [];
      const heads = ["Time", "Attempt", "Done", "Of", "Percent", "Message"].map((word) => make("th", { scope: "col" }, word));
      place.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody")));
    }
    this.#rows = append(place.querySelector("tbody"), this.#reports, this.#rows, (body, row) => body.append(row), (report) => {
      const cells = [time(report.timestamp), String(report.attempt), report.current === null ? "" : count(report.current),
        report.total === null ? "" : count(report.total), report.indeterminate ? "" : percent(report.percentage), report.message ?? ""];
      return make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
    });
  }
}

/** A report as the history has it; one that carries no time was heard now. */
const reportOf = (progress, attempt, heard) => ({ ...progress, attempt, timestamp: progress.timestamp ?? heard });

const key = (report) => `${report.attempt} ${report.timestamp} ${report.message}`;

/** Add to a list what is new in it, or fill it anew where it isn't what it was. Returns what it holds now, for the next time. */
function append(place, items, held, insert, render) {
  const keys = items.map(key);
  const goesOn = held.length && held.length <= keys.length && held.every((each, at) => each === keys[at]);
  if (!goesOn) place.replaceChildren();
  for (const item of items.slice(goesOn ? held.length : 0)) insert(place, render(item));
  return keys;
}
