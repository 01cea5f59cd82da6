// How numbers and states are said to a person. Pure.

/** A phase in a word or two. */
export const PHASES = {
  queued: "Waiting", running: "Running", retrying: "Retrying", stalled: "No sign of life", cancelling: "Cancelling",
  succeeded: "Done", failed: "Failed", cancelled: "Cancelled",
};

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** `1234567` is "1.2 MB". */
export function bytes(count) {
  let at = 0;
  while (count >= 999.5 && at < UNITS.length - 1) { count /= 1000; at += 1; }
  return `${(at === 0 || count >= 99.95 ? whole : short).format(count)} ${UNITS[at]}`;
}

/** Seconds, as roughly as they are known. */
export function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  if (seconds < 99.5 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${short.format(seconds / 3600)} h`;
  return `${whole.format(seconds / 86400)} days`;
}

/** Cut, not rounded: 99.97 % isn't 100 %. */
export const percent = (percentage) => `${percentage === 100 ? "100" : (Math.floor(percentage * 10) / 10).toFixed(1)} %`;

/** A count in the task's own unit; "bytes" are said as kB and MB. */
export function count(number, unit = "") {
  if (unit === "bytes") return bytes(number);
  return (Number.isInteger(number) ? whole : short).format(number) + (unit && ` ${unit}`);
}

/** `12 of 40 rows`, `12 rows` where nobody knows the total, "" where there is no count. */
export function amount(progress, unit = "") {
  if (progress.indeterminate) return progress.current ? count(progress.current, unit) : "";
  const done = unit === "bytes" ? bytes(progress.current) : count(progress.current);
  return `${done} of ${count(progress.total, unit)}`;
}

/** `3.5 rows/s`, or "" while it isn't known; what is slower than one a second isn't `0/s`, but so many a minute or an hour. */
export function rate(progress, unit = "") {
  if (!progress.rate) return "";
  const [span, length] = [["s", 1], ["min", 60]].find(([, seconds]) => progress.rate * seconds >= 1) ?? ["h", 3600];
  const speed = progress.rate * length;
  const number = unit === "bytes" ? bytes(speed) : (speed < 100 ? short : whole).format(speed);
  return `${number}${unit && unit !== "bytes" ? ` ${unit}` : ""}/${span}`;
}

/** `20 s left`, or "" while it isn't known. */
export const timeLeft = (progress) => (progress.eta_seconds == null ? "" : `${duration(progress.eta_seconds)} left`);
