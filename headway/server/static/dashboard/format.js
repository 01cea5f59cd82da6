// Executions as text and numbers, on top of headway.js's formats. The unit of a count is unknown
// here: a task may count anything.

import { PHASES, amount, duration, percent, rate, timeLeft } from "./api.js";

/** The statuses of the API and their texts, in the order of the filter chips. */
export const STATUSES = {
  pending: "Waiting", running: "Running", completed: "Done", failed: "Failed",
  cancelled: "Cancelled",
};

const TERMINAL = ["completed", "failed", "cancelled"];
export const isTerminal = (status) => TERMINAL.includes(status);

/** True while the task makes progress, so that rate and time left are meaningful. */
export const isMoving = ({ status, phase }) =>
  status === "running" && (phase === "running" || phase === "cancelling");

export const phaseText = (phase) => PHASES[phase] ?? phase;

export const nameOf = (execution) => execution.task ?? execution.execution_id;

export const errorText = (error) => `${error.type}: ${error.message}`;

const compactNumbers = { notation: "compact", maximumFractionDigits: 1 };
const compactFormat = new Intl.NumberFormat("en", compactNumbers);

/** For an axis: 12K, 3.4M. */
export const compact = (number) => compactFormat.format(number);

/** The percentage; the count if the total is unknown. */
export function done(progress) {
  if (!progress.indeterminate) return percent(progress.percentage);
  return amount(progress) && `${amount(progress)} done`;
}

/** "42.0 % · 12 of 40 · 3.1/s · 9 s left". Lines break between the parts, not inside a part. */
export function numbers(progress, moving, { share = true } = {}) {
  if (!progress) return "";
  const { indeterminate } = progress;
  const parts = [];
  if (indeterminate || share) parts.push(done(progress));
  if (!indeterminate) parts.push(amount(progress));
  if (moving) parts.push(rate(progress), timeLeft(progress));
  return parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

/** What to show instead of a message while there is none. */
export function placeholder({ status, phase }) {
  if (phase === "cancelling" && status === "pending") return "Ends when a worker receives it";
  return { pending: "Waiting for a worker", running: "No progress reported yet" }[status] ?? "";
}

const twoDigits = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const timeFormat = new Intl.DateTimeFormat("en", twoDigits);
const dayMonthYear = { day: "numeric", month: "short", year: "numeric" };
const dayFormat = new Intl.DateTimeFormat("en", dayMonthYear);

export const timeOf = (iso) => timeFormat.format(new Date(iso));

/** The time, with the date unless it is today. */
export function dateAndTime(iso) {
  const at = new Date(iso);
  const time = timeFormat.format(at);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? time : `${dayFormat.format(at)}, ${time}`;
}

export function age(iso, now) {
  const seconds = (now - Date.parse(iso)) / 1000;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`; // the server's clock may be ahead
}

/** When the report in a frame was made; a `status` frame may carry a report too. */
const reportedAt = ({ type, progress, timestamp }) =>
  progress?.timestamp ?? (type === "progress" ? timestamp : "");

/** True if a frame carries a report that is newer than the execution's. */
export const hasNewerReport = (frame, execution) =>
  reportedAt(frame) > (execution.updated_at ?? "");

/**
 * An execution (as the API returns it) after a frame of its stream. Frames don't carry attempt,
 * worker and times: those come with the next response of the API.
 */
export function applyFrame(execution, frame) {
  const next = { ...execution, status: frame.status, phase: frame.phase };
  if (!isTerminal(frame.status)) next.error = next.finished_at = null; // a new attempt
  else next.finished_at ??= frame.timestamp;
  for (const key of ["progress", "error", "outputs"]) if (key in frame) next[key] = frame[key];
  if (hasNewerReport(frame, execution)) next.updated_at = reportedAt(frame);
  return next;
}

/** For a response that is older than the stream: take from it only what frames don't carry. */
export function mergeStaleRow(row, { status, phase, progress, error, updated_at, finished_at }) {
  const updated = updated_at > row.updated_at ? updated_at : row.updated_at;
  return { ...row, status, phase, progress, error, finished_at, updated_at: updated };
}

/**
 * How to draw the bar: `{kind, scale, now, text}`. Only a report moves it, so it keeps its value at
 * the end. If the total is unknown, it has no value.
 */
export function barOf({ status, phase, progress }) {
  const percentage = progress && !progress.indeterminate ? progress.percentage : null;
  const known = percentage !== null;
  const kinds = { running: "moving", completed: "whole" };
  const texts = [known ? percent(percentage) : "", phaseText(phase), progress?.message ?? ""];
  return {
    kind: known ? "known" : kinds[status] ?? "empty",
    scale: known ? percentage / 100 : null,
    now: known ? Math.floor(percentage * 10) / 10 : null,
    text: texts.filter(Boolean).join(", "),
  };
}
