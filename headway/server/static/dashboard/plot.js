// The progress of an execution over time, as an SVG.

import { duration } from "./api.js";
import { makeSvg } from "./dom.js";
import { compact } from "./format.js";

/** Space around the lines for the axis labels, in rem. */
const MARGIN = { left: 3, right: 0.75, top: 0.75, bottom: 1.75 };

/**
 * The data of a plot: `{points, known, top, start, end}`, or null if no report has a count. The
 * values are percentages if any total is `known`, otherwise counts. The time axis starts with the
 * first attempt (`startedAt`, ISO or null).
 */
export function plotData(reports, startedAt) {
  const timed = reports.filter((report) => report.timestamp !== null && report.current !== null);
  if (!timed.length) return null;
  const known = timed.some((report) => !report.indeterminate);
  const value = known
    ? (report) => (report.indeterminate ? null : report.percentage)
    : (report) => report.current;
  const points = timed.map((report) => (
    { report, at: Date.parse(report.timestamp), value: value(report) }));
  // Not the first and the last: a worker's clock may be set back or differ from another worker's.
  const times = points.map(({ at }) => at);
  const start = Math.min(...times, startedAt === null ? Infinity : Date.parse(startedAt));
  const top = known ? 100 : roundUp(Math.max(...points.map((point) => point.value)));
  return { points, known, top, start, end: Math.max(...times) };
}

/** The next round number, for the end of an axis. */
function roundUp(number) {
  if (!(number > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 2.5, 5, 10].find((step) => number <= step * size) * size;
}

/** Functions from times and values to pixels; `rem` is in pixels. */
function scales(data, { width, height, rem }) {
  const box = {
    left: MARGIN.left * rem, right: width - MARGIN.right * rem,
    top: MARGIN.top * rem, bottom: height - MARGIN.bottom * rem,
  };
  const span = Math.max(1, data.end - data.start);
  return {
    box,
    x: (at) => box.left + ((at - data.start) / span) * (box.right - box.left),
    y: (value) => box.bottom - (value / data.top) * (box.bottom - box.top),
  };
}

/** The `<svg>` with the size `{width, height, rem}`; `label` describes it to screen readers. */
export function drawPlot(data, label, size) {
  const { box, x, y } = scales(data, size);
  const { rem } = size;
  const parts = [];
  const tick = (text, attributes) => {
    parts.push(makeSvg("text", { class: "tick", ...attributes }, text));
  };
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const level = y(share * data.top);
    const grid = { class: "grid", x1: box.left, x2: box.right, y1: level, y2: level };
    parts.push(makeSvg("line", grid));
    const text = data.known ? `${share * 100} %` : compact(share * data.top);
    tick(text, { x: box.left - 0.5 * rem, y: level + 0.25 * rem, "text-anchor": "end" });
  }
  const seconds = (data.end - data.start) / 1000;
  for (const share of seconds >= 1 ? [0, 0.5, 1] : [0]) {
    tick(share ? duration(share * seconds) : "0", {
      x: x(data.start + share * seconds * 1000), y: size.height - 0.5 * rem,
      "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle",
    });
  }
  const attempts = byAttempt(data.points);
  for (const [attempt, points] of attempts) {
    if (attempts.size > 1 && attempt !== null) {
      const left = x(points[0].at);
      const line = { class: "attempt", x1: left, x2: left, y1: box.top, y2: box.bottom };
      parts.push(makeSvg("line", line));
      tick(`Attempt ${attempt}`, { x: left + 0.375 * rem, y: box.top + 0.75 * rem });
    }
    const known = points.filter((point) => point.value !== null);
    if (!known.length) continue;
    const steps = known.map((point) => `${x(point.at).toFixed(1)} ${y(point.value).toFixed(1)}`);
    const line = `M${steps.join("L")}`;
    const [first, last] = [known[0], known.at(-1)];
    const area = `${line}V${y(0)}H${x(first.at).toFixed(1)}Z`;
    parts.push(makeSvg("path", { class: "area", d: area }));
    parts.push(makeSvg("path", { class: "line", d: line }));
    const dot = { class: "dot", cx: x(last.at), cy: y(last.value), r: 0.25 * rem };
    parts.push(makeSvg("circle", dot));
  }
  parts.push(makeSvg("line", { class: "cursor", x1: -9, x2: -9, y1: box.top, y2: box.bottom }));
  const viewBox = `0 0 ${size.width} ${size.height}`;
  return makeSvg("svg", { viewBox, role: "img", "aria-label": label }, ...parts);
}

function byAttempt(points) {
  const groups = new Map();
  for (const point of points) {
    const { attempt } = point.report;
    if (!groups.has(attempt)) groups.set(attempt, []);
    groups.get(attempt).push(point);
  }
  return groups;
}

/** The report that is nearest to the pixel `left`, and its own x position. */
export function nearestReport(data, left, size) {
  const { x } = scales(data, size);
  const distance = (point) => Math.abs(x(point.at) - left);
  const { report, at } = data.points.reduce((best, point) => (
    distance(point) < distance(best) ? point : best));
  return { report, x: x(at) };
}
