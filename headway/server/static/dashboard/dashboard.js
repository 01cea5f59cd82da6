// The page: which of its two views is shown, how it is connected, and the token.

import { token } from "./api.js";
import { Detail } from "./detail.js";
import { announce, attribute, find, text } from "./dom.js";
import { List } from "./list.js";

const LINKS = { connecting: "Connecting", live: "Live", polling: "Live, by asking", lost: "Connection lost", away: "Backend away" };
const BANNERS = {
  lost: "The connection is lost. What you see is the last that was heard; it goes on by itself.",
  away: "The server can’t reach its result backend. What you see is the last that was heard; it goes on by itself.",
};

/** What the stream says of itself, and what the last question over HTTP met. */
const link = { stream: null, trouble: null };

function showLink() {
  const state = link.trouble ?? link.stream ?? "live";
  attribute(document.body, "data-link", state);
  attribute(find("link"), "data-state", state);
  text(find("link-word"), LINKS[state] ?? LINKS.live);
  const words = BANNERS[state] ?? "";
  text(find("banner"), words);
  find("banner").hidden = !words;
  find("forget").hidden = !token.get();
}

const on = {
  well() {
    link.trouble = null;
    showLink();
  },
  trouble(error) {
    if (error.code === "not_authenticated") askForToken();
    // Any other refusal was an answer all the same: the connection is well.
    link.trouble = { unavailable: "away", unreachable: "lost" }[error.code] ?? null;
    showLink();
  },
  link(state) {
    link.stream = state;
    showLink();
  },
};

const list = new List(on);
const detail = new Detail(on);
let shown = null; // "" for the list, else an id
let scrolled = 0; // where the list was left

function route() {
  const wanted = location.hash.startsWith("#/") ? decoded(location.hash.slice(2)) : "";
  if (wanted === shown) {
    if (!wanted) list.open();
    return;
  }
  if (shown === "") scrolled = scrollY;
  const before = shown;
  shown = wanted;
  link.stream = null;
  find("list").hidden = Boolean(wanted);
  find("detail").hidden = !wanted;
  if (wanted) {
    list.close();
    detail.open(wanted);
    scrollTo(0, 0);
  } else {
    detail.close();
    document.title = "Headway";
    list.open();
    scrollTo(0, scrolled);
    if (before) find("rows").querySelector(`[data-id="${CSS.escape(before)}"] .name`)?.focus({ preventScroll: true });
  }
  find("back").href = `${location.search || "?"}#/`;
  showLink();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // no id of ours is written like that; the API says so
  }
}

/** Ask once, however many want one; then begin anew with it. */
function askForToken() {
  const dialog = find("ask");
  if (dialog.open) return;
  find("ask-problem").hidden = !token.get(); // there was one, and it wasn't taken
  find("token").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
}

find("ask").addEventListener("close", () => {
  const given = find("token").value.trim();
  find("token").value = "";
  if (find("ask").returnValue !== "ok" || !given) return;
  token.set(given);
  announce("Trying the token");
  if (shown) detail.open(shown);
  else list.restart();
});

find("forget").addEventListener("click", () => { token.forget(); location.reload(); });

// By hand: a fragment of its own would be taken for another view.
find("skip").addEventListener("click", (event) => { event.preventDefault(); find("main").focus(); });
find("back").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", `${location.pathname}${location.search}#/`);
  route();
});

history.scrollRestoration = "manual";
addEventListener("popstate", route);
addEventListener("hashchange", route);
route();
