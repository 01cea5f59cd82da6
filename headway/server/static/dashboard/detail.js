// The page of one execution: state, progress over time, messages, result or error.

import {
  cancel, duration, fetchExecution, fetchHistory, onEachFrame, percent, watch,
} from "./api.js";
import {
  announce, find, make, paintBar, schedulePaint, setAttribute, setPairs, setText,
} from "./dom.js";
import {
  age, applyFrame, barOf, dateAndTime, errorText, hasNewerReport, isMoving, isTerminal,
  mergeStaleRow, nameOf, numbers, phaseText, placeholder,
} from "./format.js";
import { Timeline } from "./timeline.js";

/** Limits for announcing progress to screen readers: milliseconds and percentage points. */
const ANNOUNCE = { interval: 10_000, points: 10 };
const MAX_RESULT = 20_000; // characters of a result that are shown

/** Title and text by HTTP status; without a text, the server's message is shown. */
const LOAD_ERRORS = {
  404: ["Execution not found", "No task with this id has been published or run."],
  410: ["Result expired", "The data of this execution was deleted after its retention time."],
  401: ["Token required"],
  403: ["Access denied"],
  422: ["Invalid id"],
};

export class Detail {
  #on; #id = null; #execution = null; #watching = null; #clock = 0; #timeline = new Timeline();
  /** Incremented when a pending fetch has become obsolete. */
  #generation = 0;
  #lastFrameAt = -1;
  #announced = { percentage: 0, at: 0 };
  /** True while a new attempt may have started whose number is unknown yet. */
  #attemptUnknown = false;
  /** True after this page has requested the cancellation. */
  #cancelRequested = false;

  /** Calls `on.error(error)` or `on.success()` after each fetch, and `on.stream(state)`. */
  constructor(on) {
    this.#on = on;
    find("cancel").addEventListener("click", () => this.#cancel());
    find("copy").addEventListener("click", () => this.#copy());
  }

  async open(id) {
    this.close();
    this.#id = id;
    this.#execution = null;
    this.#cancelRequested = false;
    this.#lastFrameAt = -1;
    this.#announced = { percentage: 0, at: 0 };
    this.#timeline.reset();
    for (const part of ["execution", "load-error", "problem"]) find(part).hidden = true;
    this.#clock = setInterval(() => {
      if (this.#execution && !isTerminal(this.#execution.status)) schedulePaint(this);
    }, 1000);
    await this.#fetch();
  }

  close() {
    this.#generation += 1;
    clearInterval(this.#clock);
    this.#watching?.stop();
    this.#watching = null;
    this.#id = null;
  }

  /** Fetch everything: at first, after a gap, at an end, and when a new attempt has started. */
  async #fetch() {
    const generation = (this.#generation += 1);
    const requestedAt = performance.now();
    let before;
    try {
      const [execution, history] = await Promise.all(
        [fetchExecution(this.#id), fetchHistory(this.#id).catch(nullIfUnsupported)]);
      if (generation !== this.#generation) return;
      this.#on.success();
      this.#attemptUnknown = false;
      this.#timeline.applyHistory(history, execution);
      before = this.#execution;
      const stale = this.#lastFrameAt > requestedAt;
      const outputs = execution.outputs ?? before?.outputs;
      this.#execution = stale ? { ...mergeStaleRow(execution, before), outputs } : execution;
    } catch (error) {
      if (generation === this.#generation) this.#onFetchFailed(error, generation);
      return;
    }
    // If the stream is behind, its frame will not be a change any more: announce the change now.
    if (before) this.#announce(before);
    const first = find("execution").hidden;
    find("execution").hidden = false;
    find("load-error").hidden = true;
    schedulePaint(this);
    if (first) find("detail-title").focus({ preventScroll: true });
    if (!isTerminal(this.#execution.status) && !this.#watching) this.#watch();
  }

  #onFetchFailed(error, generation) {
    this.#on.error(error);
    const texts = LOAD_ERRORS[error.status];
    if (!texts) {
      setTimeout(() => generation === this.#generation && this.#fetch(), 3000);
      return;
    }
    const [title, text = error.message] = texts;
    const id = make("p", {}, make("code", {}, this.#id));
    find("load-error").replaceChildren(make("h1", {}, title), make("p", {}, text), id);
    find("load-error").hidden = false;
    find("execution").hidden = true;
  }

  #watch() {
    const id = this.#id;
    let first = true;
    let gap = false;
    const onFrame = (frame) => {
      if (id !== this.#id) return;
      if (isTerminal(frame.type)) this.#watching = null;
      // The terminal frame follows, with the result or the error.
      if (frame.type === "status" && isTerminal(frame.status)) return;
      const isFirst = first;
      first = false;
      const before = this.#execution;
      // Either a response of the API was faster than the stream, and this frame is stale; or a new
      // attempt has started. Another response tells.
      if (isTerminal(before.status) && !isTerminal(frame.status)) return this.#fetch();
      this.#lastFrameAt = performance.now();
      this.#execution = applyFrame(before, frame);
      // Frames don't carry attempt, worker and times, and after a gap more is missing: fetch again.
      // Only the first status usually repeats what is known.
      const isKnown = isFirst && frame.phase === before.phase && !hasNewerReport(frame, before);
      const mustFetch = frame.type === "status" ? !isKnown : frame.type !== "progress";
      this.#attemptUnknown ||= mustFetch;
      if (frame.progress) {
        this.#timeline.add(frame, this.#attemptUnknown ? null : this.#execution.attempt);
      }
      this.#announce(before);
      schedulePaint(this);
      if (mustFetch) this.#fetch();
    };
    this.#watching = watch(id, {
      ...onEachFrame(onFrame),
      onError: (error) => {
        if (id !== this.#id) return;
        if (!error.final) return this.#on.error(error);
        this.#watching = null;
        this.#fetch();
      },
      onConnection: (state) => {
        if (id !== this.#id) return;
        this.#on.stream(state);
        // After a gap the stream sends only the newest report; the history has the missing ones.
        const disconnected = state === "lost" || state === "connecting";
        if (gap && !disconnected) this.#fetch();
        gap = disconnected;
      },
    });
  }

  /** For screen readers: each change of the phase, and the progress from time to time. */
  #announce(before) {
    const { phase, progress, error } = this.#execution;
    const name = nameOf(this.#execution);
    if (phase !== before.phase) {
      announce(`${name}: ${phaseText(phase)}${error ? `. ${errorText(error)}` : ""}`);
      return;
    }
    if (!progress || progress.indeterminate) return;
    const { percentage } = progress;
    const last = this.#announced;
    const at = performance.now();
    const isSmall = Math.abs(percentage - last.percentage) < ANNOUNCE.points;
    if (isSmall || at - last.at < ANNOUNCE.interval) return;
    this.#announced = { percentage, at };
    announce(`${name}: ${Math.floor(percentage)} %`);
  }

  // --- the buttons ---

  /**
   * True after a cancel request that is not confirmed yet. An execution without heartbeats stays
   * stalled after the request, so its phase alone is not enough.
   */
  get #mayTerminate() {
    return this.#execution.phase === "cancelling" || this.#cancelRequested;
  }

  async #cancel() {
    const id = this.#id;
    const terminate = this.#mayTerminate;
    const texts = terminate
      ? ["Terminate this execution?", "Its process is killed immediately, without any cleanup. "
        + "Depending on the pool, this may stop the whole worker.", "Terminate"]
      : ["Cancel this execution?", "It stops at its next progress report, or before it starts.",
        "Cancel the execution"];
    if (!(await confirm(texts)) || id !== this.#id) return;
    const problem = find("problem");
    problem.hidden = true;
    try {
      const execution = await cancel(id, terminate);
      // The stream may have been faster, with the end.
      if (id !== this.#id || isTerminal(this.#execution.status)) return;
      this.#cancelRequested = true;
      this.#execution = { ...execution, outputs: null };
      schedulePaint(this);
    } catch (error) {
      if (id !== this.#id) return;
      if (error.status === 409) return this.#fetch(); // it has ended meanwhile
      setText(problem, `Could not cancel: ${error.message}`);
      problem.hidden = false;
      if (error.status === 401) this.#on.error(error);
    }
  }

  async #copy() {
    const button = find("copy");
    try {
      await navigator.clipboard.writeText(this.#id);
      setText(button, "Copied");
      announce("Id copied");
    } catch {
      // Without https there is no clipboard: select the text, so that a keystroke copies it.
      getSelection().selectAllChildren(find("id"));
      setText(button, "Selected");
      announce("Id selected");
    }
    setTimeout(() => setText(button, "Copy id"), 2000);
  }

  // --- painting ---

  paint() {
    const execution = this.#execution;
    if (!execution || find("detail").hidden) return;
    const { status, phase, progress } = execution;
    const name = nameOf(execution);
    const shown = barOf(execution);
    const known = shown.now !== null;
    setAttribute(find("detail"), "data-status", status);
    setAttribute(find("detail"), "data-phase", phase);
    setText(find("detail-title"), name);
    setText(find("id"), execution.execution_id);
    setText(find("state"), phaseText(phase));
    setText(find("percent"), known ? percent(progress.percentage) : "");
    paintBar(find("bar"), name, shown);
    setText(find("message"), progress?.message ?? placeholder(execution));
    setText(find("numbers"), numbers(progress, isMoving(execution), { share: false }));
    const short = known ? `${Math.floor(shown.now)} %` : phaseText(phase);
    document.title = `${short} · ${name} · Headway`;
    this.#paintCancel(status, phase);
    this.#paintError(execution.error);
    this.#paintOutputs(status, execution.outputs);
    setPairs(find("facts"), factsOf(execution));
    setPairs(find("attributes"), Object.entries(progress?.attributes ?? {}));
    find("attributes-panel").hidden = !find("attributes").childElementCount;
    this.#timeline.paint(execution);
  }

  #paintCancel(status, phase) {
    const button = find("cancel");
    const hidden = isTerminal(status) || (phase === "cancelling" && status === "pending");
    if (hidden && button === document.activeElement) {
      find("detail-title").focus({ preventScroll: true });
    }
    button.hidden = hidden;
    setText(button, this.#mayTerminate ? "Terminate" : "Cancel");
    button.classList.toggle("danger", this.#mayTerminate);
  }

  #paintError(error) {
    const details = error?.details;
    find("failure").hidden = !error;
    setText(find("failure-type"), error?.type ?? "");
    setText(find("failure-message"), error?.message ?? "");
    find("failure-details").hidden = !details;
    setText(find("failure-details"), details ? JSON.stringify(details, null, 2) : "");
  }

  #paintOutputs(status, outputs) {
    const exists = status === "completed" && outputs !== null && outputs !== undefined;
    find("outputs-panel").hidden = !exists;
    const text = exists ? JSON.stringify(outputs, null, 2) : "";
    const rest = text.length - MAX_RESULT;
    const shown = rest > 0 ? `${text.slice(0, MAX_RESULT)}\n… and ${rest} more characters` : text;
    setText(find("outputs"), shown);
  }
}

/** Some backends keep no history; the page works without it. */
function nullIfUnsupported(error) {
  if (error.status === 404 || error.status === 501) return null;
  throw error;
}

/** Ask for confirmation in a dialog. */
function confirm([title, text, button]) {
  const dialog = find("confirm");
  setText(find("confirm-title"), title);
  setText(find("confirm-text"), text);
  setText(find("confirm-ok"), button);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const onClose = () => resolve(dialog.returnValue === "ok");
    dialog.addEventListener("close", onClose, { once: true });
  });
}

const EXPLANATIONS = {
  stalled: "No heartbeat from its worker. The execution continues if the worker is only slow.",
  retrying: "Waiting for its next attempt.",
  cancelling: "Cancellation requested; the task has not confirmed it yet.",
};

/** Names and values of the list of details; entries without a value are left out. */
function factsOf(execution) {
  const { phase, status, attempt, worker, owner } = execution;
  const { created_at: created, started_at: started } = execution;
  const { updated_at: updated, finished_at: finished } = execution;
  const now = Date.now();
  const time = (iso) => make("time", { datetime: iso }, dateAndTime(iso));
  const between = (from, to) => duration(Math.max(0, (to - Date.parse(from)) / 1000));
  const state = phaseText(phase);
  const explained = EXPLANATIONS[phase] && make("span", {}, `${state}. ${EXPLANATIONS[phase]}`);
  const end = finished ? Date.parse(finished) : status === "running" ? now : null;
  return [
    ["State", explained ?? state],
    ["Attempt", attempt ? String(attempt) : null],
    ["Worker", worker],
    ["Owner", owner],
    ["Published", created && time(created)],
    ["Waited", created && started && between(created, Date.parse(started))],
    ["Started", started && time(started)],
    ["Last update", !finished && updated && age(updated, now)],
    ["Ended", finished && time(finished)],
    [finished ? "Took" : "Running for", started && end !== null && between(started, end)],
  ].filter(([, value]) => value);
}
