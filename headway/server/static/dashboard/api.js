// The dashboard's calls of the API, through headway.js, which the API serves at its own prefix; and
// the token of this tab.

const base = document.body.dataset.api;
const headway = await import(new URL(`${base}/headway.js`, location.href));
const KEY = "headway.token"; // in sessionStorage: for this tab only, deleted when it closes

if (sessionStorage.getItem(KEY)) headway.setToken(sessionStorage.getItem(KEY));

export const { watch, PHASES, amount, count, duration, percent, rate, timeLeft } = headway;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set(value) {
    sessionStorage.setItem(KEY, value);
    headway.setToken(value);
  },
  remove: () => sessionStorage.removeItem(KEY),
};

const path = (id) => `/executions/${encodeURIComponent(id)}`;

export const fetchList = (query) => headway.api(`/executions?${query}`);
export const fetchExecution = (id) => headway.api(path(id));
export const fetchHistory = (id) => headway.api(`${path(id)}/history`);

/**
 * Request the cancellation; with `terminate`, kill the process. Returns the execution, which stays
 * cancelling until its task has confirmed the request.
 */
export const cancel = (id, terminate) =>
  headway.api(`${path(id)}/cancel`, { json: terminate ? { terminate } : {} });

/** Handlers for `watch` that pass each frame to `handle` once: one frame may be several events. */
export function onEachFrame(handle) {
  let last = null;
  const once = (frame) => {
    if (frame === last) return;
    last = frame;
    handle(frame);
  };
  return {
    onStatus: once, onStart: once, onProgress: (_, frame) => once(frame), onEnd: once,
  };
}
