// The course of an execution as a drawing: how far it was, and when.

import { duration } from "./api.js";
import { draw } from "./dom.js";
import { compact } from "./words.js";

const BOX = { height: 240, left: 48, right: 12, top: 12, bottom: 28 };

/**
 * What is drawn: `{points, value, top, unit, begin, end}`, or null where no report has a count. Percentages where any total is
 * known; else what was counted.
 */
export function course(reports) {
  const timed = reports.filter((report) => report.timestamp !== null && report.current !== null);
  if (!timed.length) return null;
  const known = timed.some((report) => !report.indeterminate);
  const value = known ? (report) => (report.indeterminate ? null : report.percentage) : (report) => report.current;
  const points = timed.map((report) => ({ report, at: Date.parse(report.timestamp), value: value(report) }));
  const times = points.map(({ at }) => at); // a worker's clock may be set back, and another worker's differ
  const top = known ? 100 : nice(Math.max(...points.map((point) => point.value)));
  return { points, known, top, begin: Math.min(...times), end: Math.max(...times) };
}

/** The next number above that a person would choose for the end of an axis. */
function nice(number) {
  if (!(number > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 2.5, 5, 10].find((step) => number <= step * size) * size;
}

/** Where a time and a value lie in a drawing of so many pixels' width. */
const place = (drawn, width) => ({
  x: (at) => BOX.left + ((at - drawn.begin) / Math.max(1, drawn.end - drawn.begin)) * (width - BOX.left - BOX.right),
  y: (value) => BOX.top + (1 - value / drawn.top) * (BOX.height - BOX.top - BOX.bottom),
});

/** The `<svg>`; `label` is what it says to who doesn't see it. */
export function plot(drawn, label, width) {
  const { x, y } = place(drawn, width);
  const parts = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const level = y(share * drawn.top);
    parts.push(draw("line", { class: "grid", x1: BOX.left, x2: width - BOX.right, y1: level, y2: level }));
    const word = drawn.known ? `${share * 100} %` : compact(share * drawn.top);
    parts.push(draw("text", { class: "tick", x: BOX.left - 8, y: level + 4, "text-anchor": "end" }, word));
  }
  const span = (drawn.end - drawn.begin) / 1000;
  for (const share of span >= 1 ? [0, 0.5, 1] : [0]) {
    const word = share ? duration(share * span) : "0";
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    parts.push(draw("text", { class: "tick", x: x(drawn.begin + share * span * 1000), y: BOX.height - 8, "text-anchor": anchor }, word));
  }
  const attempts = byAttempt(drawn.points);
  for (const [attempt, points] of attempts) {
    if (attempts.size > 1) {
      const from = x(points[0].at);
      parts.push(draw("line", { class: "attempt", x1: from, x2: from, y1: BOX.top, y2: BOX.height - BOX.bottom }));
      parts.push(draw("text", { class: "tick", x: from + 5, y: BOX.top + 12 }, `Attempt ${attempt}`));
    }
    const run = points.filter((point) => point.value !== null);
    if (!run.length) continue;
    const line = run.map((point, at) => `${at ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point.value).toFixed(1)}`).join("");
    const [first, last] = [run[0], run.at(-1)];
    parts.push(draw("path", { class: "area", d: `${line}V${y(0)}H${x(first.at).toFixed(1)}Z` }));
    parts.push(draw("path", { class: "line", d: line }));
    parts.push(draw("circle", { class: "dot", cx: x(last.at), cy: y(last.value), r: 3.5 }));
  }
  parts.push(draw("line", { class: "cross", x1: -9, x2: -9, y1: BOX.top, y2: BOX.height - BOX.bottom }));
  return draw("svg", { viewBox: `0 0 ${width} ${BOX.height}`, height: BOX.height, role: "img", "aria-label": label }, ...parts);
}

function byAttempt(points) {
  const groups = new Map();
  for (const point of points) {
    if (!groups.has(point.report.attempt)) groups.set(point.report.attempt, []);
    groups.get(point.report.attempt).push(point);
  }
  return groups;
}

/** The point that is nearest to `left` in a drawing of so many pixels' width, and where its line stands. */
export function nearest(drawn, left, width) {
  const { x } = place(drawn, width);
  const off = (point) => Math.abs(x(point.at) - left);
  const point = drawn.points.reduce((best, each) => (off(each) < off(best) ? each : best));
  return { report: point.report, x: x(point.at) };
}
