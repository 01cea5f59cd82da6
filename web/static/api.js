// The API, by the module that Headway serves beside it, and the tab's token.

import { api, setToken } from "../headway.js";

const KEY = "headway.token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set(value) {
    sessionStorage.setItem(KEY, value);
    setToken(value);
  },
  forget: () => sessionStorage.removeItem(KEY),
};

setToken(token.get());

const path = (id) => `/executions/${encodeURIComponent(id)}`;

export const execution = (id) => api(path(id));

export const start = (task, kwargs = {}) => api("/executions", { json: { task, kwargs } });

/** Ask for its end; the execution, which is cancelling until its run has confirmed it. */
export const cancel = (id) => api(`${path(id)}/cancel`, { json: {} });

export function upload(file, name) {
  const form = new FormData();
  form.append("file", file, name);
  return api(new URL(document.body.dataset.upload, location.href), { method: "POST", body: form, timeout: 120000 });
}
