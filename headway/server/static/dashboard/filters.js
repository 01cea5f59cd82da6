// The filters of the list as the query of the page's URL: a filtered list can be shared, and the
// back button undoes a filter.

const NAMES = ["status", "phase", "task", "owner", "q"];

/** The filters in the URL, including those without a control on the page. */
export function readFilters() {
  const given = new URLSearchParams(location.search);
  const pairs = NAMES.map((name) => [name, given.get(name)?.trim()]);
  return new Map(pairs.filter(([, value]) => value));
}

/** The query string for the filters with some of them changed; "?" without any. */
export function queryOf(filters, changes = {}) {
  const query = new URLSearchParams();
  for (const name of NAMES) {
    const value = name in changes ? changes[name] : filters.get(name);
    if (value) query.set(name, value);
  }
  return `?${query}`;
}

export const isSame = (one, other) => queryOf(one) === queryOf(other);
