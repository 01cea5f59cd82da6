// One execution as far as it is known here, and who wants to know. However its frames come, each thing is told once.

const ENDS = { completed: "succeeded", failed: "failed", cancelled: "cancelled" };

/** Whether a status, or a frame's type, is an end. */
export const terminal = (word) => word in ENDS;

const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

/** What the task said is the same, whenever it said it: rate, time left and timestamp are no news by themselves. */
const sameProgress = (a, b) => a === b || (Boolean(a) && Boolean(b) && same(said(a), said(b)));
const said = ({ current, total, message, attributes }) => [current, total, message, Object.entries(attributes ?? {}).sort()];

export class Subject {
  /** The last that was told of it: a `status` frame, whatever the frames were; null before the first. */
  known = null;
  /** The end, or the error that is one. */
  over = false;
  #watchers = new Set();
  #connection = "connecting";
  #trouble = null;

  constructor(id) { this.id = id; }

  get watchers() { return this.#watchers.size; }
  get connection() { return this.#connection; }
  /** Whether the server has said that it can't see the execution now. */
  get away() { return this.#trouble !== null; }

  /** Add one; who comes late is told first what the others know. */
  add(watcher) {
    this.#watchers.add(watcher);
    if (this.#connection !== "connecting") watcher.tell("onConnection", this.#connection);
    if (this.known) {
      watcher.tell("onStatus", this.known);
      if (this.known.progress) watcher.tell("onProgress", this.known.progress, this.known);
    }
    if (this.#trouble) watcher.tell("onError", this.#trouble);
  }

  remove(watcher) { this.#watchers.delete(watcher); }

  some(test) { return [...this.#watchers].some(test); }

  /** How its frames come now: "connecting", "live", "polling" or "lost". */
  connect(state) {
    if (this.over || state === this.#connection) return;
    this.#connection = state;
    this.#tell("onConnection", state);
  }

  /** Take a frame of the contract. */
  accept(frame) {
    const before = this.known;
    if (this.over) return;
    const ends = terminal(frame.type);
    // `status` always comes first; what comes before it was meant for a subscription that is no more. An end is an end.
    if (!before && !ends && frame.type !== "status") return;
    frame = { ...frame, phase: phaseOf(frame, before) };
    const progress = "progress" in frame ? frame.progress : before?.progress ?? null;
    const { status, phase, timestamp } = frame;
    this.known = { type: "status", execution_id: this.id, status, phase, timestamp, progress };
    const returned = this.#trouble !== null;
    this.#trouble = null;
    const moved = !before || before.status !== frame.status || before.phase !== frame.phase;
    const reported = progress && !sameProgress(progress, before?.progress);
    // A status that says nothing new is what a reconnect looks like when nothing was missed.
    if (frame.type === "status" && (moved || reported || returned)) this.#tell("onStatus", frame);
    const begun = before?.status === "pending" && (frame.status === "running" || frame.status === "completed");
    if (begun || frame.type === "started") this.#tell("onStart", frame);
    if (reported) this.#tell("onProgress", progress, frame);
    if (ends) {
      this.over = true;
      this.#tell("onEnd", frame);
      this.#watchers.forEach((watcher) => watcher.end(frame));
    }
  }

  /** It can't be seen for now. Told once until it can. */
  trouble(error) {
    if (this.over || this.#trouble) return;
    this.#trouble = error;
    this.#tell("onError", error);
  }

  /** It can't be watched, for good. */
  refuse(error) {
    if (this.over) return;
    this.over = true;
    this.#tell("onError", error);
    this.#watchers.forEach((watcher) => watcher.fail(error));
  }

  #tell(name, ...args) { [...this.#watchers].forEach((watcher) => watcher.tell(name, ...args)); }
}

/** Only `status` frames carry the phase: the others imply it, or leave it as it was. */
function phaseOf(frame, before) {
  if (terminal(frame.type)) return ENDS[frame.type];
  if (frame.phase) return frame.phase;
  return frame.type === "started" || before.phase === "queued" ? "running" : before.phase;
}
