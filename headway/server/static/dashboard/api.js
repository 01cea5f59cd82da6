// The one seam to Headway's browser module, which stands beside the API, wherever that is mounted; and the token of this tab.

const base = document.body.dataset.api;
const headway = await import(new URL(`${base}/headway.js`, location.href));
const KEY = "headway.token"; // in sessionStorage: this tab's alone, and gone with it

if (sessionStorage.getItem(KEY)) headway.setToken(sessionStorage.getItem(KEY));

export const { watch, PHASES, amount, count, duration, percent, rate, timeLeft } = headway;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set(value) {
    sessionStorage.setItem(KEY, value);
    headway.setToken(value);
  },
  forget: () => sessionStorage.removeItem(KEY),
};

const of = (id) => `/executions/${encodeURIComponent(id)}`;

export const list = (query) => headway.api(`/executions?${query}`);
export const execution = (id) => headway.api(of(id));
export const history = (id) => headway.api(`${of(id)}/history`);

/** Ask for its end; with `terminate`, by force. The execution, which is cancelling until its run has confirmed it. */
export const cancel = (id, terminate) =>
  headway.api(`${of(id)}/cancel`, { json: terminate ? { terminate } : {} });
