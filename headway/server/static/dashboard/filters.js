// What the list shows, as the page's own query: it can be shared, and the back button undoes it.

const NAMES = ["status", "phase", "task", "owner", "q"];

/** The filters that stand in the URL, those the page has no control for included. */
export function read() {
  const given = new URLSearchParams(location.search);
  return new Map(NAMES.map((name) => [name, given.get(name)?.trim()]).filter(([, value]) => value));
}

/** The query of the page with one filter changed; "?" for none at all. */
export function query(filters, changes = {}) {
  const wanted = new URLSearchParams();
  for (const name of NAMES) {
    const value = name in changes ? changes[name] : filters.get(name);
    if (value) wanted.set(name, value);
  }
  return `?${wanted}`;
}

export const same = (one, other) => query(one) === query(other);
