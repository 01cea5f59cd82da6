// The course of an execution as a drawing: how far it was, and when.

import { duration } from "./api.js";
import { draw } from "./dom.js";
import { compact } from "./words.js";

/** Room around the lines for the words at the axes, in the page's own unit (rem). */
const ROOM = { left: 3, right: 0.75, top: 0.75, bottom: 1.75 };

/**
 * What is drawn: `{points, known, top, begin, end}`, or null where no report has a count. Percentages where any total is `known`;
 * else what was counted. Time begins with the first attempt (`started`, ISO or null).
 */
export function course(reports, started) {
  const timed = reports.filter((report) => report.timestamp !== null && report.current !== null);
  if (!timed.length) return null;
  const known = timed.some((report) => !report.indeterminate);
  const value = known ? (report) => (report.indeterminate ? null : report.percentage) : (report) => report.current;
  const points = timed.map((report) => ({ report, at: Date.parse(report.timestamp), value: value(report) }));
  const times = points.map(({ at }) => at); // a worker's clock may be set back, and another worker's differ
  const top = known ? 100 : nice(Math.max(...points.map((point) => point.value)));
  const begin = Math.min(...times, started === null ? Infinity : Date.parse(started));
  return { points, known, top, begin, end: Math.max(...times) };
}

/** The next number above that a person would choose for the end of an axis. */
function nice(number) {
  if (!(number > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 2.5, 5, 10].find((step) => number <= step * size) * size;
}

/** Where a time and a value lie in a drawing of so many pixels; `rem` is how many of them make one. */
function scales(drawn, { width, height, rem }) {
  const box = { left: ROOM.left * rem, right: width - ROOM.right * rem, top: ROOM.top * rem, bottom: height - ROOM.bottom * rem };
  const span = Math.max(1, drawn.end - drawn.begin);
  return {
    box,
    x: (at) => box.left + ((at - drawn.begin) / span) * (box.right - box.left),
    y: (value) => box.bottom - (value / drawn.top) * (box.bottom - box.top),
  };
}

/** The `<svg>`, of the size `{width, height, rem}`; `label` is what it says to who doesn't see it. */
export function plot(drawn, label, size) {
  const { box, x, y } = scales(drawn, size);
  const parts = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const level = y(share * drawn.top);
    parts.push(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: level, y2: level }));
    const word = drawn.known ? `${share * 100} %` : compact(share * drawn.top);
    parts.push(draw("text", { class: "tick", x: box.left - 0.5 * size.rem, y: level + 0.25 * size.rem, "text-anchor": "end" }, word));
  }
  const span = (drawn.end - drawn.begin) / 1000;
  for (const share of span >= 1 ? [0, 0.5, 1] : [0]) {
    const word = share ? duration(share * span) : "0";
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    parts.push(draw("text", { class: "tick", x: x(drawn.begin + share * span * 1000), y: size.height - 0.5 * size.rem, "text-anchor": anchor }, word));
  }
  const attempts = byAttempt(drawn.points);
  for (const [attempt, points] of attempts) {
    if (attempts.size > 1 && attempt !== null) {
      const from = x(points[0].at);
      parts.push(draw("line", { class: "attempt", x1: from, x2: from, y1: box.top, y2: box.bottom }));
      parts.push(draw("text", { class: "tick", x: from + 0.375 * size.rem, y: box.top + 0.75 * size.rem }, `Attempt ${attempt}`));
    }
    const run = points.filter((point) => point.value !== null);
    if (!run.length) continue;
    const line = run.map((point, at) => `${at ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point.value).toFixed(1)}`).join("");
    const [first, last] = [run[0], run.at(-1)];
    parts.push(draw("path", { class: "area", d: `${line}V${y(0)}H${x(first.at).toFixed(1)}Z` }));
    parts.push(draw("path", { class: "line", d: line }));
    parts.push(draw("circle", { class: "dot", cx: x(last.at), cy: y(last.value), r: 0.25 * size.rem }));
  }
  parts.push(draw("line", { class: "cross", x1: -9, x2: -9, y1: box.top, y2: box.bottom }));
  return draw("svg", { viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": label }, ...parts);
}

function byAttempt(points) {
  const groups = new Map();
  for (const point of points) {
    if (!groups.has(point.report.attempt)) groups.set(point.report.attempt, []);
    groups.get(point.report.attempt).push(point);
  }
  return groups;
}

/** The report that is nearest to `left` in a drawing of that size, and where its line stands. */
export function nearest(drawn, left, size) {
  const { x } = scales(drawn, size);
  const off = (point) => Math.abs(x(point.at) - left);
  const { report, at } = drawn.points.reduce((best, each) => (off(each) < off(best) ? each : best));
  return { report, x: x(at) };
}
