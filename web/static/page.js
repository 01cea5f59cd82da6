// The page: starts jobs, keeps the list of those it started in this browser, and shows each one live.

import { watch } from "../headway.js";
import { cancel, execution, start, token, upload } from "./api.js";
import { sample } from "./sample.js";
import { JobView, terminal } from "./view.js";

const KEY = "headway.jobs";
const MOST = 50;
/** What keeps a job from being watched, by the error's code. */
const OBSTACLES = { not_found: "unknown", invalid: "unknown", expired: "expired", not_allowed: "forbidden", not_authenticated: "locked" };
const find = (id) => document.getElementById(id);
const list = find("jobs");

/** The newest first: `{job: {id, title, unit}, view, watching, news}`; an end that was there before the page isn't news. */
let entries = [];

function stored() {
  try {
    const jobs = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(jobs) ? jobs.filter((job) => typeof job?.id === "string").slice(0, MOST) : [];
  } catch {
    return []; // written by something else
  }
}

function changed() {
  localStorage.setItem(KEY, JSON.stringify(entries.map(({ job }) => job)));
  find("empty").hidden = entries.length > 0;
  linked();
}

/** The page as a whole: is anything cut off, has anything ended, is there a token to forget? */
function linked() {
  const states = entries.map(({ view }) => view.element.dataset.link);
  const banner = find("banner");
  const text = states.includes("lost") ? "The connection is lost. Trying again by itself …"
    : states.includes("away") ? "The server can’t reach its result backend. It shows the latest again as soon as it can." : "";
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
  find("clear").hidden = !entries.some(({ view }) => view.ended);
  find("forget").hidden = !token.get();
}

function add(job, { last = false } = {}) {
  const view = new JobView(find("job"), job, { remove: () => remove(entry), cancel: () => stop(entry) });
  const entry = { job, view, watching: null, news: !last };
  if (last) { entries.push(entry); list.append(view.element); }
  else { entries.unshift(entry); list.prepend(view.element); }
  follow(entry);
}

/** Show it live, from now on to its end. */
function follow(entry) {
  const { job, view } = entry;
  const link = (state, text) => {
    if (view.element.dataset.link !== state) view.link(state, text);
    linked();
  };
  const show = (frame) => {
    view.frame(frame);
    link(terminal(frame.type) ? "ended" : "live");
  };
  entry.watching = watch(job.id, {
    onStatus(frame) {
      show(frame);
      if (terminal(frame.status)) return;
      entry.news = true;
      refresh(entry);
    },
    onStart: show,
    onProgress: (progress, frame) => show(frame),
    onEnd(frame) {
      show(frame);
      if (entry.news) announce(view.sentence);
      refresh(entry);
    },
    onConnection(state) {
      if (state === "lost") link("lost", "The server can’t be reached.");
      else if (state !== "connecting") link("live");
    },
    onError(error) {
      link(OBSTACLES[error.code] ?? "away", error.message);
      if (error.code === "not_authenticated") askForToken();
    },
  });
}

/** Its task, times and attempts aren't in the frames: worth a look where the state changes. */
async function refresh({ job, view }) {
  try {
    view.facts(await execution(job.id));
  } catch {
    return; // what the frame said stands
  }
}

/** Ask for its end. What comes of it, the stream tells. */
async function stop(entry) {
  const { job, view } = entry;
  view.problem("");
  try {
    const { status, phase } = await cancel(job.id);
    if (!view.ended) view.frame({ status, phase }); // the stream may have been quicker, with the end
  } catch (error) {
    if (error.status === 401) askForToken(() => stop(entry));
    else if (error.status === 409) refresh(entry); // it has ended meanwhile
    else view.problem(`It wasn’t cancelled. ${error.message}`);
  }
}

function remove(entry) {
  const at = entries.indexOf(entry);
  entry.watching.stop();
  entry.view.element.remove();
  entries = entries.filter((other) => other !== entry);
  changed();
  // The focus was on a button that is gone: on to the next one.
  (entries[at] ?? entries[at - 1])?.view.element.querySelector(".remove").focus();
  if (!entries.length) list.focus();
}

function keep(job) {
  const known = entries.find((entry) => entry.job.id === job.id);
  if (known) remove(known);
  add(job);
  while (entries.length > MOST) remove(entries.at(-1));
  changed();
}

function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  find("announcer").append(line);
  if (find("announcer").childElementCount > 5) find("announcer").firstElementChild.remove();
}

/** Run what a button stands for: one at a time, and what goes wrong is said below the cards. */
async function act(card, button, work) {
  const problem = find("problem");
  button.disabled = true;
  try {
    const { execution_id: id } = await work();
    problem.hidden = true;
    keep({ id, title: card.dataset.title, unit: card.dataset.unit });
  } catch (error) {
    if (error.status === 401) askForToken(() => act(card, button, work));
    else { problem.textContent = `${card.dataset.title} wasn’t started. ${error.message}`; problem.hidden = false; }
  } finally {
    button.disabled = false;
  }
}

const ask = { dialog: find("ask"), then: [] };

/** Ask once, however many wait for it; then all that was locked is opened again. */
function askForToken(then) {
  if (then) ask.then.push(then);
  if (ask.dialog.open) return;
  find("ask-problem").hidden = !token.get(); // there was one, and it wasn't taken
  find("token").value = "";
  ask.dialog.returnValue = "cancel";
  ask.dialog.showModal();
}

ask.dialog.addEventListener("close", () => {
  const waiting = ask.then.splice(0);
  const given = find("token").value.trim();
  find("token").value = "";
  if (ask.dialog.returnValue !== "ok" || !given) return;
  token.set(given);
  entries.filter(({ view }) => view.element.dataset.link === "locked").forEach(follow);
  waiting.forEach((again) => again());
  linked();
});

for (const card of document.querySelectorAll(".card")) {
  card.querySelector("[data-do=start]")?.addEventListener("click", (event) => act(card, event.target, () => start(card.dataset.task)));
  card.querySelector("[data-do=sample]")?.addEventListener("click", (event) => act(card, event.target, () => upload(sample(), "sample.csv")));
  card.querySelector("input[type=file]")?.addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) act(card, target, () => upload(file, file.name)).then(() => target.form.reset());
  });
}

find("watch").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = find("watch-id").value.trim();
  if (id) keep({ id, title: id, unit: "" });
  event.target.reset();
});

find("clear").addEventListener("click", () => entries.filter(({ view }) => view.ended).forEach(remove));
find("forget").addEventListener("click", () => { token.forget(); location.reload(); });

stored().forEach((job) => add(job, { last: true }));
changed();
