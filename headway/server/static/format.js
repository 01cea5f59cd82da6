// Numbers and phases as text. Pure.

/** The text for each phase. */
export const PHASES = {
  queued: "Waiting", running: "Running", retrying: "Retrying", stalled: "Stalled",
  cancelling: "Cancelling", succeeded: "Done", failed: "Failed", cancelled: "Cancelled",
};

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** `1234567` is "1.2 MB". */
export function bytes(count) {
  let at = 0;
  while (count >= 999.5 && at < UNITS.length - 1) { count /= 1000; at += 1; }
  return `${(at === 0 || count >= 99.95 ? integer : decimal).format(count)} ${UNITS[at]}`;
}

/** Seconds as text, rounded to their precision. */
export function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  if (seconds < 99.5 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${decimal.format(seconds / 3600)} h`;
  return `${integer.format(seconds / 86400)} days`;
}

/** Rounded down: 99.97 % must not become 100 %. */
export const roundDown = (percentage) => Math.floor(percentage * 10) / 10;

export const percent = (percentage) =>
  `${percentage === 100 ? "100" : roundDown(percentage).toFixed(1)} %`;

/** A count in the task's own unit; "bytes" become kB and MB. */
export function count(number, unit = "") {
  if (unit === "bytes") return bytes(number);
  return (Number.isInteger(number) ? integer : decimal).format(number) + (unit && ` ${unit}`);
}

/** `12 of 40 rows`; `12 rows` if the total is unknown; "" if there is no count. */
export function amount(progress, unit = "") {
  if (progress.indeterminate) return progress.current ? count(progress.current, unit) : "";
  const done = unit === "bytes" ? bytes(progress.current) : count(progress.current);
  return `${done} of ${count(progress.total, unit)}`;
}

/**
 * `3.5 rows/s`, or "" while it is unknown. A rate below one per second is shown per minute or per
 * hour, never as `0/s`.
 */
export function rate(progress, unit = "") {
  if (!progress.rate) return "";
  const spans = [["s", 1], ["min", 60]];
  const [span, length] = spans.find(([, s]) => progress.rate * s >= 1) ?? ["h", 3600];
  const speed = progress.rate * length;
  if (unit === "bytes") return `${bytes(speed)}/${span}`;
  return `${(speed < 100 ? decimal : integer).format(speed)}${unit && ` ${unit}`}/${span}`;
}

/** `20 s left`, or "" while it is unknown. */
export const timeLeft = (progress) =>
  (progress.eta_seconds == null ? "" : `${duration(progress.eta_seconds)} left`);
