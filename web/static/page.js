// The page: starts jobs, remembers the jobs that were started in this browser, shows each one live.

import { watch } from "../headway.js";
import { cancel, fetchExecution, start, token, upload } from "./api.js";
import { sample } from "./sample.js";
import { JobView, isTerminal } from "./view.js";

const KEY = "headway.jobs";
const MAX_JOBS = 50;
const find = (id) => document.getElementById(id);
const list = find("jobs");

/**
 * Newest first: `{job: {id, title, unit}, view, watching, announces}`. `announces` is false for a
 * job of an earlier visit until it is known to run: an old end is no news.
 */
let entries = [];

function storedJobs() {
  try {
    const jobs = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    if (!Array.isArray(jobs)) return [];
    return jobs.filter((job) => typeof job?.id === "string").slice(0, MAX_JOBS);
  } catch {
    return []; // not written by this page
  }
}

function onListChange() {
  localStorage.setItem(KEY, JSON.stringify(entries.map(({ job }) => job)));
  find("empty").hidden = entries.length > 0;
  updatePage();
}

/** Update the banner and the buttons that depend on all jobs. */
function updatePage() {
  const states = entries.map(({ view }) => view.element.dataset.connection);
  const banner = find("banner");
  let text = "";
  if (states.includes("lost")) text = "Connection lost. Reconnecting automatically …";
  else if (states.includes("unavailable")) {
    text = "The server can’t reach its result backend. Jobs update again as soon as it can.";
  }
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
  find("clear").hidden = !entries.some(({ view }) => view.ended);
  find("forget-token").hidden = !token.get();
}

function add(job, { stored = false } = {}) {
  const on = { remove: () => remove(entry), cancel: () => requestCancel(entry) };
  const view = new JobView(find("job"), job, on);
  const entry = { job, view, watching: null, announces: !stored };
  if (stored) { entries.push(entry); list.append(view.element); }
  else { entries.unshift(entry); list.prepend(view.element); }
  follow(entry);
}

/** Show the job live until its end. */
function follow(entry) {
  const { job, view } = entry;
  const setConnection = (state, reason) => {
    if (view.element.dataset.connection !== state) view.setConnection(state, reason);
    updatePage();
  };
  const show = (frame) => {
    view.applyFrame(frame);
    setConnection(isTerminal(frame.type) ? "ended" : "live");
  };
  entry.watching = watch(job.id, {
    onStatus(frame) {
      show(frame);
      if (isTerminal(frame.status)) return;
      entry.announces = true;
      refresh(entry);
    },
    onStart: show,
    onProgress: (progress, frame) => show(frame),
    onEnd(frame) {
      show(frame);
      if (entry.announces) announce(view.sentence);
      refresh(entry);
    },
    onConnection(state) {
      if (state === "lost") setConnection("lost", "The server can’t be reached.");
      else if (state !== "connecting") setConnection("live");
    },
    onError(error) {
      const code = error.code === "invalid" ? "not_found" : error.code;
      setConnection(error.final ? code : "unavailable", error.message);
      if (code === "not_authenticated") askForToken();
    },
  });
}

/** Fetch what frames don't carry (task, times, attempt) when the state has changed. */
async function refresh({ job, view }) {
  try {
    view.applyDetails(await fetchExecution(job.id));
  } catch {
    return; // the view keeps the state of the frames
  }
}

/** Request the cancellation. The stream reports its result. */
async function requestCancel(entry) {
  const { job, view } = entry;
  view.setProblem("");
  try {
    const { status, phase } = await cancel(job.id);
    // The stream may have been faster, with the end.
    if (!view.ended) view.applyFrame({ status, phase });
  } catch (error) {
    if (error.status === 401) askForToken(() => requestCancel(entry));
    else if (error.status === 409) refresh(entry); // it has ended meanwhile
    else view.setProblem(`Could not cancel: ${error.message}`);
  }
}

function remove(entry) {
  const at = entries.indexOf(entry);
  entry.watching.stop();
  entry.view.element.remove();
  entries = entries.filter((other) => other !== entry);
  onListChange();
  // The focused button is gone: focus the next one.
  (entries[at] ?? entries[at - 1])?.view.element.querySelector(".remove").focus();
  if (!entries.length) list.focus();
}

function addNewest(job) {
  const known = entries.find((entry) => entry.job.id === job.id);
  if (known) remove(known);
  add(job);
  while (entries.length > MAX_JOBS) remove(entries.at(-1));
  onListChange();
}

function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  find("announcer").append(line);
  if (find("announcer").childElementCount > 5) find("announcer").firstElementChild.remove();
}

/** Start a job with a card's button; an error is shown below the cards. */
async function startJob(card, button, request) {
  const problem = find("problem");
  const { title, unit } = card.dataset;
  button.disabled = true;
  try {
    const { execution_id: id } = await request();
    problem.hidden = true;
    addNewest({ id, title, unit });
  } catch (error) {
    if (error.status === 401) askForToken(() => startJob(card, button, request));
    else {
      problem.textContent = `Could not start ${title}: ${error.message}`;
      problem.hidden = false;
    }
  } finally {
    button.disabled = false;
  }
}

const dialog = find("token-dialog");
/** Functions to call again with a token. */
const waitingForToken = [];

/** Show the token dialog, once; afterwards everything that was refused is tried again. */
function askForToken(retry) {
  if (retry) waitingForToken.push(retry);
  if (dialog.open) return;
  find("token-problem").hidden = !token.get(); // there was one, and it was rejected
  find("token").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  const retries = waitingForToken.splice(0);
  const given = find("token").value.trim();
  find("token").value = "";
  if (dialog.returnValue !== "ok" || !given) return;
  token.set(given);
  const refused = ({ view }) => view.element.dataset.connection === "not_authenticated";
  entries.filter(refused).forEach(follow);
  retries.forEach((retry) => retry());
  updatePage();
});

for (const card of document.querySelectorAll(".card")) {
  const onClick = (action, request) => {
    card.querySelector(`[data-action=${action}]`)
      ?.addEventListener("click", ({ target }) => startJob(card, target, request));
  };
  onClick("start", () => start(card.dataset.task));
  onClick("sample", () => upload(sample(), "sample.csv"));
  card.querySelector("input[type=file]")?.addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (!file) return;
    await startJob(card, target, () => upload(file, file.name));
    target.form.reset();
  });
}

find("watch").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = find("watch-id").value.trim();
  if (id) addNewest({ id, title: id, unit: "" });
  event.target.reset();
});

find("clear").addEventListener("click", () => {
  entries.filter(({ view }) => view.ended).forEach(remove);
});
find("forget-token").addEventListener("click", () => { token.remove(); location.reload(); });

storedJobs().forEach((job) => add(job, { stored: true }));
onListChange();
