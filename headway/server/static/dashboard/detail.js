// One execution by itself: how far it is, how it got there, what it said, how it ended.

import { cancel, duration, execution, history, percent, watch } from "./api.js";
import { Course } from "./course.js";
import { announce, attribute, find, make, paint, pairs, text } from "./dom.js";
import { after, age, bar, moment, moving, newer, numbers, overtaken, phaseWord, terminal } from "./words.js";

const QUIET = 10000; // ms between two announcements of how far it is
const LONGEST = 20000; // characters of a result that are shown

const MISSING = {
  404: ["There is no such execution", "Nobody has heard of it: neither published nor run, as far as this server can tell."],
  410: ["Its result has expired", "It was there once; what was known of it is kept for a while only."],
  401: ["A token is wanted", ""],
  403: ["Not for you to see", ""],
  422: ["That is no id", ""],
};

export class Detail {
  #on; #id = null; #run = 0; #seen = null; #watching = null; #clock = 0; #course = new Course();
  #heard = -1; #said = { percentage: 0, at: 0 };
  /** A new attempt may have begun whose number isn't known yet; this page has asked for the end. */
  #turning = false; #asked = false;

  constructor(on) {
    this.#on = on;
    find("cancel").addEventListener("click", () => this.#cancel());
    find("copy").addEventListener("click", () => this.#copy());
  }

  async open(id) {
    this.close();
    this.#id = id;
    this.#seen = null;
    this.#asked = false;
    this.#heard = -1;
    this.#said = { percentage: 0, at: 0 };
    this.#course.begin();
    find("whole").hidden = find("missing").hidden = true;
    find("problem").hidden = true;
    this.#clock = setInterval(() => this.#seen && !terminal(this.#seen.status) && paint(this), 1000);
    await this.#look();
  }

  close() {
    this.#run += 1;
    clearInterval(this.#clock);
    this.#watching?.stop();
    this.#watching = null;
    this.#id = null;
  }

  /** All that is known, asked for: at first, after a gap, at an end, and where a new attempt has begun. */
  async #look() {
    const run = (this.#run += 1);
    const asked = performance.now();
    let before;
    try {
      const [seen, past] = await Promise.all([execution(this.#id), history(this.#id).catch(optional)]);
      if (run !== this.#run) return;
      this.#on.well();
      this.#turning = false;
      this.#course.take(past, seen);
      before = this.#seen;
      this.#seen = this.#heard > asked ? { ...overtaken(seen, this.#seen), outputs: seen.outputs ?? this.#seen.outputs } : seen;
    } catch (error) {
      if (run === this.#run) this.#refused(error, run);
      return;
    }
    if (before) this.#tell(before); // the stream that would have told it is behind: its frame will be no change any more
    const first = find("whole").hidden;
    find("whole").hidden = false;
    find("missing").hidden = true;
    paint(this);
    if (first) find("detail-title").focus({ preventScroll: true });
    if (!terminal(this.#seen.status) && !this.#watching) this.#follow();
  }

  #refused(error, run) {
    this.#on.trouble(error);
    const words = MISSING[error.status];
    if (words) {
      const [title, about] = words;
      find("missing").replaceChildren(make("h1", {}, title), make("p", {}, about || error.message), make("p", {}, make("code", {}, this.#id)));
      find("missing").hidden = false;
      find("whole").hidden = true;
    } else setTimeout(() => run === this.#run && this.#look(), 3000);
  }

  #follow() {
    const id = this.#id;
    let last = null; // one frame may be told as more than one thing
    let gap = false;
    const hear = (frame) => {
      if (id !== this.#id || frame === last) return;
      if (frame.type === "status" && terminal(frame.status)) return; // the frame behind it says how it ended
      const first = last === null;
      const before = this.#seen;
      last = frame;
      // A look was quicker than the stream, whose word is from before the end; or it begins anew. Another look tells.
      if (terminal(before.status) && !terminal(frame.status)) return this.#look();
      this.#heard = performance.now();
      this.#seen = after(before, frame);
      // Frames don't say attempt, worker and times; and after a gap there is more. The first status mostly says what is known.
      const known = first && frame.phase === before.phase && !newer(frame, before);
      const looks = frame.type === "status" ? !known : frame.type !== "progress";
      this.#turning ||= looks;
      if (frame.progress) this.#course.add(frame, this.#turning ? null : this.#seen.attempt);
      this.#tell(before);
      paint(this);
      if (looks) this.#look();
    };
    this.#watching = watch(id, {
      onStatus: hear,
      onStart: hear,
      onProgress: (_, frame) => hear(frame),
      onEnd: (frame) => { this.#watching = null; hear(frame); },
      onError: (error) => {
        if (id !== this.#id) return;
        if (!error.final) return this.#on.trouble(error);
        this.#watching = null;
        this.#look();
      },
      onConnection: (state) => {
        if (id !== this.#id) return;
        this.#on.link(state);
        // Behind a gap comes the newest report alone, maybe as a mere progress: what was between is in the history.
        const cut = state === "lost" || state === "connecting";
        if (gap && !cut) this.#look();
        gap = cut;
      },
    });
  }

  /** For who doesn't see it: each change of state, and now and then how far it is. */
  #tell(before) {
    const { phase, progress, task, error } = this.#seen;
    const name = task ?? this.#id;
    if (phase !== before.phase) return announce(`${name}: ${phaseWord(phase)}${error ? `. ${error.type}: ${error.message}` : ""}`);
    if (!progress || progress.indeterminate) return;
    const now = performance.now();
    if (Math.abs(progress.percentage - this.#said.percentage) < 10 || now - this.#said.at < QUIET) return;
    this.#said = { percentage: progress.percentage, at: now };
    announce(`${name}: ${Math.floor(progress.percentage)} %`);
  }

  // --- what a reader can do ---

  /** It was asked to end and goes on, or seems to: one without a sign of life is called stalled, whatever was asked of it. */
  get #mayForce() { return this.#seen.phase === "cancelling" || this.#asked; }

  async #cancel() {
    const id = this.#id;
    const force = this.#mayForce;
    const words = force
      ? ["Terminate it?", "Its process is killed where it stands: nothing is cleaned up, and a whole worker may go with it, depending on its pool.", "Terminate"]
      : ["Cancel it?", "It ends at its next report, or before it starts.", "Cancel the execution"];
    if (!(await sure(words)) || id !== this.#id) return;
    const problem = find("problem");
    problem.hidden = true;
    try {
      const seen = await cancel(id, force);
      if (id !== this.#id || terminal(this.#seen.status)) return; // the stream may have been quicker, with the end
      this.#asked = true;
      this.#seen = { ...seen, outputs: null };
      paint(this);
    } catch (error) {
      if (id !== this.#id) return;
      if (error.status === 409) return this.#look(); // it has ended meanwhile
      text(problem, `It wasn’t cancelled. ${error.message}`);
      problem.hidden = false;
      if (error.status === 401) this.#on.trouble(error);
    }
  }

  async #copy() {
    const button = find("copy");
    try {
      await navigator.clipboard.writeText(this.#id);
      text(button, "Copied");
      announce("The id is copied");
    } catch {
      getSelection().selectAllChildren(find("id")); // no clipboard without https: marked, it is a keystroke away
      text(button, "Marked");
      announce("The id is marked");
    }
    setTimeout(() => text(button, "Copy id"), 2000);
  }

  // --- what is seen ---

  paint() {
    const seen = this.#seen;
    if (!seen || find("detail").hidden) return;
    const { status, phase, progress } = seen;
    const shown = bar(seen);
    attribute(find("detail"), "data-status", status);
    attribute(find("detail"), "data-phase", phase);
    text(find("detail-title"), seen.task ?? seen.execution_id);
    text(find("id"), seen.execution_id);
    text(find("state"), phaseWord(phase));
    text(find("percent"), shown.now === null ? "" : percent(progress.percentage));
    const track = find("bar");
    attribute(track, "data-kind", shown.kind);
    attribute(track, "aria-label", seen.task ?? seen.execution_id);
    attribute(track, "aria-valuenow", shown.now);
    attribute(track, "aria-valuetext", shown.words);
    track.firstElementChild.style.transform = shown.scale === null ? "" : `translateX(${shown.scale * 100 - 100}%)`;
    text(find("message"), progress?.message ?? waiting(seen));
    text(find("numbers"), numbers(progress, moving(seen), { share: false }));
    document.title = `${shown.now === null ? phaseWord(phase) : `${Math.floor(shown.now)} %`} · ${seen.task ?? seen.execution_id} · Headway`;
    this.#buttons(status, phase);
    this.#failure(seen.error);
    this.#outputs(status, seen.outputs);
    pairs(find("facts"), facts(seen));
    pairs(find("attributes"), Object.entries(progress?.attributes ?? {}));
    find("attributes-panel").hidden = !find("attributes").childElementCount;
    this.#course.paint(seen);
  }

  #buttons(status, phase) {
    const button = find("cancel");
    const hidden = terminal(status) || (phase === "cancelling" && status === "pending");
    if (hidden && button === document.activeElement) find("detail-title").focus({ preventScroll: true });
    button.hidden = hidden;
    text(button, this.#mayForce ? "Terminate" : "Cancel");
    button.classList.toggle("danger", this.#mayForce);
  }

  #failure(error) {
    find("failure").hidden = !error;
    text(find("failure-type"), error?.type ?? "");
    text(find("failure-message"), error?.message ?? "");
    find("failure-details").hidden = !error?.details;
    text(find("failure-details"), error?.details ? JSON.stringify(error.details, null, 2) : "");
  }

  #outputs(status, outputs) {
    const there = status === "completed" && outputs !== null && outputs !== undefined;
    find("outputs-panel").hidden = !there;
    const whole = there ? JSON.stringify(outputs, null, 2) : "";
    text(find("outputs"), whole.length > LONGEST ? `${whole.slice(0, LONGEST)}\n… and ${whole.length - LONGEST} characters more` : whole);
  }
}

/** A server or a backend may keep no history; the page is whole without it. */
function optional(error) {
  if (error.status === 404 || error.status === 501) return null;
  throw error;
}

/** Whether the person means it. */
function sure([title, about, ok]) {
  const dialog = find("sure");
  text(find("sure-title"), title);
  text(find("sure-text"), about);
  text(find("sure-ok"), ok);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true }));
}

function waiting(seen) {
  if (seen.phase === "cancelling" && seen.status === "pending") return "Ends when a worker gets to it";
  return { pending: "Waiting for a worker", running: "Nothing reported yet" }[seen.status] ?? "";
}

const ABOUT = {
  stalled: "No sign of life from its worker. It goes on by itself where the worker is only slow.",
  retrying: "Waiting for its next attempt.",
  cancelling: "Asked to end; it hasn’t confirmed that yet.",
};

function facts(seen) {
  const now = Date.now();
  const when = (iso) => make("time", { datetime: iso }, moment(iso));
  const between = (from, to) => duration(Math.max(0, (to - Date.parse(from)) / 1000));
  const { created_at: created, started_at: started, updated_at: updated, finished_at: finished } = seen;
  const all = [
    ["State", ABOUT[seen.phase] ? make("span", {}, `${phaseWord(seen.phase)}. ${ABOUT[seen.phase]}`) : phaseWord(seen.phase)],
    ["Attempt", seen.attempt ? String(seen.attempt) : null],
    ["Worker", seen.worker],
    ["Owner", seen.owner],
    ["Published", created && when(created)],
    ["Waited", created && started && between(created, Date.parse(started))],
    ["Started", started && when(started)],
    ["Last heard", !finished && updated && age(updated, now)],
    ["Ended", finished && when(finished)],
    [finished ? "Took" : "Running for", started && (finished || seen.status === "running") && between(started, finished ? Date.parse(finished) : now)],
  ];
  return all.filter(([, value]) => value);
}
