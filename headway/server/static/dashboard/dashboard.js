// The page: switches between list and detail, shows the connection, asks for the token.

import { token } from "./api.js";
import { Detail } from "./detail.js";
import { announce, find, opensElsewhere, setAttribute, setText } from "./dom.js";
import { List } from "./list.js";

const CONNECTIONS = {
  connecting: "Connecting", live: "Live", polling: "Live (polling)", lost: "Connection lost",
  unavailable: "Backend unavailable",
};
const BANNERS = {
  lost: "Connection lost. The page shows the last known state and reconnects automatically.",
  unavailable: "The server can’t reach its result backend. The page shows the last known state and "
    + "updates automatically.",
};

/** The state of the stream, and the problem of the last HTTP request. */
const connection = { stream: null, problem: null };

function showConnection() {
  const state = connection.problem ?? connection.stream ?? "live";
  setAttribute(document.body, "data-connection", state);
  setAttribute(find("connection"), "data-state", state);
  setText(find("connection-text"), CONNECTIONS[state] ?? CONNECTIONS.live);
  const text = BANNERS[state] ?? "";
  setText(find("banner"), text);
  find("banner").hidden = !text;
  find("forget-token").hidden = !token.get();
}

const on = {
  success() {
    connection.problem = null;
    showConnection();
  },
  error(error) {
    if (error.code === "not_authenticated") askForToken();
    // Any other error is a response too: the connection works.
    const problems = { unavailable: "unavailable", unreachable: "lost" };
    connection.problem = problems[error.code] ?? null;
    showConnection();
  },
  stream(state) {
    connection.stream = state;
    showConnection();
  },
};

const list = new List(on);
const detail = new Detail(on);
let shownId = null; // "" for the list
let listScroll = 0; // scroll position of the list, for the way back

function route() {
  const id = location.hash.startsWith("#/") ? decode(location.hash.slice(2)) : "";
  if (id === shownId) {
    if (!id) list.open();
    return;
  }
  if (shownId === "") listScroll = scrollY;
  const before = shownId;
  shownId = id;
  connection.stream = null;
  find("list").hidden = Boolean(id);
  find("detail").hidden = !id;
  if (id) {
    list.close();
    detail.open(id);
    scrollTo(0, 0);
  } else {
    detail.close();
    document.title = "Headway";
    list.open();
    scrollTo(0, listScroll);
    const selector = `[data-id="${CSS.escape(before ?? "")}"] .name`;
    if (before) find("rows").querySelector(selector)?.focus({ preventScroll: true });
  }
  find("back").href = `${location.search || "?"}#/`;
  showConnection();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // not a valid id; the API reports that
  }
}

/** Show the token dialog, once; afterwards reload the data with the token. */
function askForToken() {
  const dialog = find("token-dialog");
  if (dialog.open) return;
  find("token-problem").hidden = !token.get(); // there was one, and it was rejected
  find("token").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
}

find("token-dialog").addEventListener("close", () => {
  const given = find("token").value.trim();
  find("token").value = "";
  if (find("token-dialog").returnValue !== "ok" || !given) return;
  token.set(given);
  announce("Trying the token");
  if (shownId) detail.open(shownId);
  else list.restart();
});

find("forget-token").addEventListener("click", () => { token.remove(); location.reload(); });

// In script: following the link would change the fragment, which selects the view.
find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("main").focus();
});
find("back").addEventListener("click", (event) => {
  if (opensElsewhere(event)) return;
  event.preventDefault();
  history.pushState(null, "", `${location.pathname}${location.search}#/`);
  route();
});

history.scrollRestoration = "manual";
addEventListener("popstate", route);
addEventListener("hashchange", route);
route();
