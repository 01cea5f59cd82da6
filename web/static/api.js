// The HTTP side: one way to call the API, with the token where there is one.

const base = document.body.dataset.api;
const KEY = "headway.token";

/** An answer that isn't 2xx, or none at all (`status` 0). `message` is for a person. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

async function ask(url, options = {}) {
  const headers = new Headers(options.headers);
  if (token.get()) headers.set("Authorization", `Bearer ${token.get()}`);
  let response;
  try {
    response = await fetch(url, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(options.timeout ?? 15000) });
  } catch {
    throw new ApiError(0, "The server can’t be reached.");
  }
  const body = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, body?.detail ?? `The server answered ${response.status}.`);
  return body;
}

function post(url, body) {
  return ask(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

const executionUrl = (id) => `${base}/executions/${encodeURIComponent(id)}`;

export const execution = (id) => ask(executionUrl(id));

export const start = (task, kwargs = {}) => post(`${base}/executions`, { task, kwargs });

/** Ask for its end; the execution, which is cancelling until its run has confirmed it. */
export const cancel = (id) => post(`${executionUrl(id)}/cancel`, {});

export function upload(file, name) {
  const form = new FormData();
  form.append("file", file, name);
  return ask(document.body.dataset.upload, { method: "POST", body: form, timeout: 120000 });
}

/** Where an execution's socket is. A socket can't carry the token in a header, so it gets a short-lived ticket. */
export async function socketUrl(id) {
  const url = new URL(`${executionUrl(id)}/progress/ws`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  if (token.get()) {
    const { ticket } = await post(`${base}/tickets`, {});
    if (ticket) url.searchParams.set("ticket", ticket); // none where the server wants no token
  }
  return url;
}
