// How executions are put into words here, on top of what Headway's own module says. No unit is known: a task counts what it likes.

import { PHASES, amount, duration, percent, rate, timeLeft } from "./api.js";

/** The API's five words, in the order of a job's life, as the chips show them. */
export const STATUSES = { pending: "Waiting", running: "Running", completed: "Done", failed: "Failed", cancelled: "Cancelled" };

export const terminal = (status) => status === "completed" || status === "failed" || status === "cancelled";

/** Whether it goes on just now, so that rate and time left mean something. */
export const moving = ({ status, phase }) => status === "running" && (phase === "running" || phase === "cancelling");

export const phaseWord = (phase) => PHASES[phase] ?? phase;

const tight = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** For an axis: 12K, 3.4M. */
export const compact = (number) => tight.format(number);

/** How much is done: a share where one is known, else a count. */
export const done = (progress) => (progress.indeterminate ? amount(progress) && `${amount(progress)} done` : percent(progress.percentage));

/** "42.0 % · 12 of 40 · 3.1/s · 9 s left": a line breaks between the parts, not inside one. */
export function numbers(progress, running, { share = true } = {}) {
  if (!progress) return "";
  const parts = [progress.indeterminate || share ? done(progress) : "", progress.indeterminate ? "" : amount(progress)];
  if (running) parts.push(rate(progress), timeLeft(progress));
  return parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric" });

export const time = (iso) => clock.format(new Date(iso));

/** Time and date, for where the day isn't plain. */
export function moment(iso) {
  const at = new Date(iso);
  return at.toDateString() === new Date().toDateString() ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
}

export function age(iso, now) {
  const seconds = (now - Date.parse(iso)) / 1000;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`; // a server's clock may be ahead of this one
}

/** When a frame's report was made; a status may bring one as well. */
const heard = ({ type, progress, timestamp }) => progress?.timestamp ?? (type === "progress" ? timestamp : "");

/** Whether a frame brings a report that is newer than what was known of it: the first one of a stream, than the look before it. */
export const newer = (frame, seen) => heard(frame) > (seen.updated_at ?? "");

/**
 * What is known of an execution (a line of the API) after a frame of its stream. Frames leave out what doesn't change with them:
 * attempt, worker and times come with the next look.
 */
export function after(seen, frame) {
  const next = { ...seen, status: frame.status, phase: frame.phase };
  if (!terminal(frame.status)) next.error = next.finished_at = null; // a new attempt begins afresh
  else next.finished_at ??= frame.timestamp;
  for (const key of ["progress", "error", "outputs"]) if (key in frame) next[key] = frame[key];
  if (newer(frame, seen)) next.updated_at = heard(frame);
  return next;
}

/** A line of the API that was overtaken by the stream: only what frames don't tell is taken from it. */
export function overtaken(line, { status, phase, progress, error, updated_at, finished_at }) {
  return { ...line, status, phase, progress, error, finished_at, updated_at: updated_at > line.updated_at ? updated_at : line.updated_at };
}

/** A bar: only a report moves it, so that an end leaves it where it was; one of unknown length has no value. */
export function bar(seen) {
  const { status, progress } = seen;
  const known = Boolean(progress) && !progress.indeterminate;
  const kind = known ? "known" : status === "running" ? "moving" : status === "completed" ? "whole" : "empty";
  const parts = [known ? percent(progress.percentage) : "", phaseWord(seen.phase), progress?.message ?? ""];
  return {
    kind,
    scale: known ? progress.percentage / 100 : null,
    now: known ? Math.floor(progress.percentage * 10) / 10 : null,
    words: parts.filter(Boolean).join(", "),
  };
}
