// The known state of one execution and its watchers. Any transport may bring its frames; each
// change is reported once.

const TERMINAL_PHASES = { completed: "succeeded", failed: "failed", cancelled: "cancelled" };

/** True for a terminal status, and for the type of a frame that carries one. */
export const isTerminal = (statusOrType) => statusOrType in TERMINAL_PHASES;

const isEqual = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

/** Compares what the task reported. Rate, ETA and timestamp change without a new report. */
const isSameProgress = (a, b) => a === b || (Boolean(a) && Boolean(b)
  && isEqual(reportedFields(a), reportedFields(b)));

const reportedFields = ({ current, total, message, attributes }) =>
  [current, total, message, Object.entries(attributes ?? {}).sort()];

export class ExecutionState {
  /** The latest state as a `status` frame, whichever frames it came from; null before the first. */
  latest = null;
  /** True after a terminal frame or a final error: nothing more will be reported. */
  closed = false;
  #watchers = new Set();
  #connection = "connecting";
  /** The error that the server reported last, until it can read the execution again. */
  #error = null;

  constructor(id) { this.id = id; }

  get watcherCount() { return this.#watchers.size; }
  get connection() { return this.#connection; }
  /** True while the server cannot read the execution. */
  get unavailable() { return this.#error !== null; }

  /** Add a watcher and replay the latest state to it. */
  add(watcher) {
    this.#watchers.add(watcher);
    if (this.#connection !== "connecting") watcher.notify("onConnection", this.#connection);
    if (this.latest) {
      watcher.notify("onStatus", this.latest);
      const { progress } = this.latest;
      if (progress) watcher.notify("onProgress", progress, this.latest);
    }
    if (this.#error) watcher.notify("onError", this.#error);
  }

  remove(watcher) { this.#watchers.delete(watcher); }

  someWatcher(test) { return [...this.#watchers].some(test); }

  /** @param {string} connection "connecting", "live", "polling" or "lost" */
  setConnection(connection) {
    if (this.closed || connection === this.#connection) return;
    this.#connection = connection;
    this.#notify("onConnection", connection);
  }

  /** Apply a frame of the protocol. */
  applyFrame(frame) {
    const before = this.latest;
    if (this.closed) return;
    const ends = isTerminal(frame.type);
    // A subscription starts with `status`. Other frames before it belong to an older subscription;
    // only a terminal frame is valid anyway.
    if (!before && !ends && frame.type !== "status") return;
    frame = { ...frame, phase: phaseOf(frame, before) };
    const progress = "progress" in frame ? frame.progress : before?.progress ?? null;
    const { status, phase, timestamp } = frame;
    this.latest = { type: "status", execution_id: this.id, status, phase, timestamp, progress };
    const recovered = this.#error !== null;
    this.#error = null;
    const moved = !before || before.status !== frame.status || before.phase !== frame.phase;
    const reported = progress && !isSameProgress(progress, before?.progress);
    // After a reconnect the server repeats the `status`; it is news only if something has changed.
    const isNews = moved || reported || recovered;
    if (frame.type === "status" && isNews) this.#notify("onStatus", frame);
    const started = before?.status === "pending" && ["running", "completed"].includes(frame.status);
    if (started || frame.type === "started") this.#notify("onStart", frame);
    if (reported) this.#notify("onProgress", progress, frame);
    if (ends) {
      this.closed = true;
      this.#notify("onEnd", frame);
      this.#watchers.forEach((watcher) => watcher.resolve(frame));
    }
  }

  /** The server cannot read the execution now. Reported once per outage. */
  setUnavailable(error) {
    if (this.closed || this.#error) return;
    this.#error = error;
    this.#notify("onError", error);
  }

  /** A final error: the execution cannot be watched. */
  fail(error) {
    if (this.closed) return;
    this.closed = true;
    this.#notify("onError", error);
    this.#watchers.forEach((watcher) => watcher.reject(error));
  }

  #notify(name, ...args) {
    [...this.#watchers].forEach((watcher) => watcher.notify(name, ...args));
  }
}

/** Only `status` frames carry the phase: the other types imply it or leave it unchanged. */
function phaseOf(frame, before) {
  if (isTerminal(frame.type)) return TERMINAL_PHASES[frame.type];
  if (frame.phase) return frame.phase;
  return frame.type === "started" || before.phase === "queued" ? "running" : before.phase;
}
