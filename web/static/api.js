// The page's calls of the API, through headway.js, and the token of this tab.

import { api, setToken } from "../headway.js";

const KEY = "headway.token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set(value) {
    sessionStorage.setItem(KEY, value);
    setToken(value);
  },
  remove: () => sessionStorage.removeItem(KEY),
};

setToken(token.get());

const path = (id) => `/executions/${encodeURIComponent(id)}`;

export const fetchExecution = (id) => api(path(id));

export const start = (task, kwargs = {}) => api("/executions", { json: { task, kwargs } });

/**
 * Request the cancellation. Returns the execution, which stays cancelling until its task has
 * confirmed the request.
 */
export const cancel = (id) => api(`${path(id)}/cancel`, { json: {} });

export function upload(file, name) {
  const form = new FormData();
  form.append("file", file, name);
  const url = new URL(document.body.dataset.upload, location.href);
  return api(url, { method: "POST", body: form, timeout: 120000 });
}
