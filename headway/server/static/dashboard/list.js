// The list: pages of the API, newest first. Visible rows are watched live; polling brings new rows.

import { count, fetchExecution, fetchList, onEachFrame, watch } from "./api.js";
import { announce, find, make, opensElsewhere, setAttribute, setText } from "./dom.js";
import { isSame, queryOf, readFilters } from "./filters.js";
import { STATUSES, isTerminal } from "./format.js";
import { Row } from "./row.js";

// All in milliseconds.
/** Between two polls of the first page, while the page is visible and the server responds. */
const POLL_INTERVAL = 3000;
const MAX_POLL_INTERVAL = 30_000;
/** After which an unmoved pointer does not count: the pointer of a wall screen lies anywhere. */
const POINTER_TIMEOUT = 10_000;
const AGE_INTERVAL = 10_000;

/** Rows of the first page, which is polled. */
const FIRST_PAGE = 50;
/** Rows of an older page. */
const NEXT_PAGE = 200;
/** Rows to which the list may grow through new ones: a wall screen is never reloaded. */
const MAX_ROWS = 1000;
/** Pages in a row without a new row, after which only the button loads older pages. */
const MAX_EMPTY_PAGES = 5;

const TITLES = {
  401: "Token required", 403: "Access denied", 501: "This result backend cannot list executions",
  503: "Result backend unavailable", 0: "The server can’t be reached",
};

/** Calls `on.error(error)` or `on.success()` after each poll, and `on.stream(state)`. */
export class List {
  #on; #filters = new Map(); #rows = new Map(); #taskNames = new Set(); #cursor = null;
  #open = false; #timer = 0; #interval = POLL_INTERVAL;
  /** Incremented when a pending poll has become obsolete. */
  #generation = 0;
  /** A page with new rows that wait for the button. */
  #pendingPage = null;
  #pointerMovedAt = -POINTER_TIMEOUT;
  /** Rows to fetch again, one after the other. */
  #stale = new Set(); #refreshing = false;
  #loaded = false; #loadingMore = false; #error = null; #emptyPages = 0;
  #place = find("rows"); #more = find("more"); #newButton = find("new-rows");
  #visibility = new IntersectionObserver(
    (entries) => this.#onVisibility(entries), { rootMargin: "300px" });
  #end = new IntersectionObserver(
    ([entry]) => entry.isIntersecting && this.#loadMore(), { rootMargin: "1000px" });

  constructor(on) {
    this.#on = on;
    this.#more.addEventListener("click", () => { this.#emptyPages = 0; this.#loadMore(); });
    this.#newButton.addEventListener("click", () => this.#showNewRows());
    for (const place of [this.#place, this.#newButton]) {
      place.addEventListener("pointermove", () => { this.#pointerMovedAt = performance.now(); });
    }
    document.addEventListener("visibilitychange", () => this.#open && this.#schedulePoll(0));
    setInterval(() => this.#open && !document.hidden && this.#updateAges(), AGE_INTERVAL);
    this.#setUpControls();
  }

  /** Show the list for the filters in the URL. Rows that are there already stay and are updated. */
  open() {
    const filters = readFilters();
    const changed = !isSame(filters, this.#filters);
    this.#filters = filters;
    this.#open = true;
    this.#showFilters();
    if (changed) this.#clear();
    for (const row of this.#rows.values()) this.#watchIfVisible(row);
    this.#schedulePoll(0);
  }

  /** Stop polling and watching while another view is shown. */
  close() {
    this.#open = false;
    this.#generation += 1;
    clearTimeout(this.#timer);
    for (const row of this.#rows.values()) this.#unwatch(row);
  }

  /** Start again like after a reload: another token may give access to other executions. */
  restart() {
    this.#clear();
    if (this.#open) this.#schedulePoll(0);
  }

  // --- requests ---

  #schedulePoll(wait) {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#timer = setTimeout(() => this.#poll(), wait);
  }

  async #poll() {
    const generation = (this.#generation += 1);
    const requestedAt = performance.now();
    let page;
    try {
      page = await this.#fetchPage(`limit=${FIRST_PAGE}&counts=true`);
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#interval = Math.min(MAX_POLL_INTERVAL, this.#interval * 2);
      this.#error = error;
      this.#on.error(error);
      this.#showFooter();
      // Without a token, polling continues when there is one.
      if (error.code !== "not_authenticated") this.#schedulePoll(this.#interval);
      return;
    }
    if (generation !== this.#generation) return;
    this.#interval = POLL_INTERVAL;
    this.#error = null;
    this.#loaded = true;
    this.#on.success();
    // Without a watched row there is no stream, and no state of it.
    if (![...this.#rows.values()].some((row) => row.watching)) this.#on.stream(null);
    this.#showCounts(page.counts);
    this.#applyPage(page, requestedAt);
    this.#showFooter();
    this.#schedulePoll(POLL_INTERVAL);
  }

  #fetchPage(parameters) {
    return fetchList(`${queryOf(this.#filters).slice(1)}&${parameters}`);
  }

  async #loadMore() {
    const cursor = this.#cursor;
    if (!cursor || this.#loadingMore || !this.#open) return;
    this.#loadingMore = true;
    try {
      const parameters = `limit=${NEXT_PAGE}&cursor=${encodeURIComponent(cursor)}`;
      const page = await this.#fetchPage(parameters);
      if (cursor !== this.#cursor) return; // the list has been rebuilt meanwhile
      this.#cursor = page.cursor;
      const older = page.executions.filter((each) => !this.#rows.has(each.execution_id));
      this.#place.append(...older.map((each) => this.#add(each).element));
      this.#emptyPages = older.length ? 0 : this.#emptyPages + 1;
    } catch (error) {
      this.#on.error(error);
      this.#emptyPages = MAX_EMPTY_PAGES; // only the button tries again
    } finally {
      this.#loadingMore = false;
      this.#showFooter();
    }
  }

  /** Fetch what frames don't carry. One row at a time, so that a thousand ends are no burst. */
  async #refresh(row) {
    this.#stale.add(row);
    if (this.#refreshing) return;
    this.#refreshing = true;
    for (const stale of this.#stale) {
      this.#stale.delete(stale);
      if (this.#rows.get(stale.id) !== stale || !this.#open) continue;
      const requestedAt = performance.now();
      try {
        stale.applyRow(await fetchExecution(stale.id), requestedAt);
      } catch {
        continue; // the row keeps the state of the frame; the next poll reports the problem
      }
    }
    this.#refreshing = false;
  }

  // --- rows ---

  /** Update known rows. Insert new ones, unless that would move a list in use. */
  #applyPage(page, requestedAt) {
    const known = page.executions.filter((each) => this.#rows.has(each.execution_id));
    for (const execution of known) {
      const row = this.#rows.get(execution.execution_id);
      row.applyRow(execution, requestedAt);
      this.#watchIfVisible(row);
    }
    for (const execution of page.executions) this.#addTaskName(execution.task);
    const added = page.executions.length - known.length;
    this.#pendingPage = added ? page : null;
    if (!added) this.#newButton.hidden = true;
    else if (!this.#rows.size || !this.#isInUse()) this.#insert(page);
    else this.#showNewButton(added, known.length === 0);
  }

  #insert(page) {
    const first = !this.#rows.size;
    // More new executions than a page holds: the list would have a gap.
    const gap = !page.executions.some((each) => this.#rows.has(each.execution_id));
    if (!first && (gap || this.#rows.size > MAX_ROWS)) this.#removeRows();
    if (!this.#rows.size) this.#cursor = page.cursor;
    let before = null;
    for (const execution of page.executions) {
      const row = this.#rows.get(execution.execution_id) ?? this.#add(execution);
      if (!row.element.isConnected) {
        if (before) before.after(row.element);
        else this.#place.prepend(row.element);
        if (!first) row.element.classList.add("new");
      }
      before = row.element;
    }
    this.#pendingPage = null;
    this.#newButton.hidden = true;
  }

  #add(execution) {
    const row = new Row(execution);
    this.#rows.set(row.id, row);
    this.#addTaskName(execution.task);
    this.#visibility.observe(row.element);
    return row;
  }

  #clear() {
    this.#generation += 1;
    this.#removeRows();
    this.#pendingPage = this.#error = null;
    this.#loaded = false;
    this.#newButton.hidden = true;
    this.#showFooter();
  }

  #removeRows() {
    for (const row of this.#rows.values()) {
      this.#unwatch(row);
      this.#visibility.unobserve(row.element);
    }
    this.#rows.clear();
    this.#cursor = null;
    this.#place.replaceChildren();
  }

  /** True while the list is scrolled, or has the focus or the pointer: then rows must not move. */
  #isInUse() {
    if (this.#place.getBoundingClientRect().top < 0) return true;
    const pointing = performance.now() - this.#pointerMovedAt < POINTER_TIMEOUT;
    return [this.#place, this.#newButton].some((place) =>
      place.contains(document.activeElement) || (place.matches(":hover") && pointing));
  }

  #showNewButton(added, orMore) {
    const text = `${count(added)}${orMore ? " or more" : ""} new`;
    if (this.#newButton.hidden) announce(`${text} at the top of the list`);
    setText(this.#newButton, text);
    this.#newButton.hidden = false;
  }

  #showNewRows() {
    if (this.#pendingPage) this.#insert(this.#pendingPage);
    this.#place.querySelector(".name")?.focus({ preventScroll: true });
    scrollTo({ top: 0 });
  }

  /** Below the rows: why there are none, or the button for more. */
  #showFooter() {
    const place = find("empty");
    const content = this.#emptyContent();
    const heading = content?.[0].textContent;
    if (heading !== place.firstChild?.textContent) place.replaceChildren(...(content ?? []));
    place.hidden = !content;
    setAttribute(this.#place, "aria-busy", this.#loaded || this.#error ? null : "true");
    this.#more.hidden = !this.#cursor;
    // An observer reports only changes. Observing again makes it report whether the end of the list
    // is near: a short page may not have moved it.
    this.#end.unobserve(this.#more);
    if (this.#cursor && this.#emptyPages < MAX_EMPTY_PAGES) this.#end.observe(this.#more);
  }

  #emptyContent() {
    if (this.#rows.size) return null;
    if (this.#error) return errorContent(this.#error);
    return this.#loaded ? noRowsContent(this.#filters.size, this.#cursor) : null;
  }

  #updateAges() {
    const now = Date.now();
    requestAnimationFrame(() => { for (const row of this.#rows.values()) row.updateAge(now); });
  }

  // --- watching ---

  #onVisibility(entries) {
    for (const entry of entries) {
      const row = this.#rows.get(entry.target.dataset.id);
      if (!row) continue;
      row.visible = entry.isIntersecting;
      this.#watchIfVisible(row);
    }
  }

  /** Watch visible rows that have not ended; all watches share one socket. */
  #watchIfVisible(row) {
    if (!this.#open || !row.visible || row.ended) return this.#unwatch(row);
    if (row.watching) return;
    row.watching = watch(row.id, {
      ...onEachFrame((frame) => {
        if (row.applyFrame(frame)) this.#refresh(row);
        if (isTerminal(frame.type)) row.watching = null;
      }),
      onError: (error) => {
        this.#on.error(error);
        if (!error.final) return;
        row.watching = null;
        if (error.code !== "not_authenticated") row.setError(error.code);
      },
      onConnection: (state) => this.#on.stream(state),
    });
  }

  #unwatch(row) {
    row.watching?.stop();
    row.watching = null;
  }

  // --- filters ---

  #setUpControls() {
    const apply = (changes, replace) => {
      const url = queryOf(this.#filters, changes);
      history[replace ? "replaceState" : "pushState"](null, "", url);
      this.open();
    };
    const follow = (event) => {
      const link = event.target.closest("a");
      if (!link || opensElsewhere(event)) return;
      event.preventDefault();
      history.pushState(null, "", link.href);
      this.open();
    };
    find("chips").addEventListener("click", follow);
    find("clear").addEventListener("click", (event) => { follow(event); find("q").focus(); });
    find("empty").addEventListener("click", (event) => {
      if (event.target.matches("button")) this.restart();
      else follow(event);
    });
    find("task").addEventListener("change", ({ target }) => apply({ task: target.value }));
    let timer = 0;
    let typing = false; // one history entry per search, not per letter
    find("q").addEventListener("input", ({ target }) => {
      clearTimeout(timer);
      timer = setTimeout(() => { apply({ q: target.value.trim() }, typing); typing = true; }, 250);
    });
    find("q").addEventListener("blur", () => { typing = false; });
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    for (const [status, text] of [["all", "All"], ...Object.entries(STATUSES)]) {
      const chip = make("a", { class: "chip", "data-status": status });
      chip.append(make("span", {}, text), " ", make("b"));
      find("chips").append(chip);
    }
  }

  #showFilters() {
    for (const chip of find("chips").children) {
      const status = chip.dataset.status === "all" ? null : chip.dataset.status;
      const current = (this.#filters.get("status") ?? null) === status;
      chip.href = queryOf(this.#filters, { status });
      setAttribute(chip, "aria-current", current ? "true" : null);
    }
    const q = find("q");
    if (q !== document.activeElement) q.value = this.#filters.get("q") ?? "";
    this.#addTaskName(this.#filters.get("task"));
    find("task").value = this.#filters.get("task") ?? "";
    find("clear").hidden = this.#filters.size === 0;
  }

  #showCounts(counts) {
    const all = Object.values(counts ?? {}).reduce((sum, each) => sum + each, 0);
    for (const chip of find("chips").children) {
      const { status } = chip.dataset;
      const number = status === "all" ? all : counts?.[status];
      setText(chip.lastElementChild, counts ? count(number) : "");
    }
  }

  /** Offer a task's name in the filter, in alphabetical order. */
  #addTaskName(task) {
    if (!task || this.#taskNames.has(task)) return;
    this.#taskNames.add(task);
    const select = find("task");
    const names = [...this.#taskNames].sort();
    const next = names[names.indexOf(task) + 1];
    const before = [...select.options].find(({ value }) => value === next) ?? null;
    select.add(make("option", { value: task }, task), before);
  }
}

function noRowsContent(filtered, hasMore) {
  if (filtered) {
    return [
      make("h2", {}, hasMore ? "No matches among the newest" : "No matches"),
      make("p", {}, "No execution matches these filters. ", make("a", { href: "?" }, "Show all")),
    ];
  }
  return [
    make("h2", {}, "No executions yet"),
    make("p", {}, "Tasks appear here as soon as they are published. "
      + "Is Headway installed on the Celery app?"),
    make("pre", {}, "import headway\nheadway.install(celery_app)"),
  ];
}

function errorContent(error) {
  const title = TITLES[error.status ?? 0] ?? "The server reported an error";
  const content = [make("h2", {}, title), make("p", {}, error.message)];
  if (error.status === 401) content.push(make("button", { type: "button" }, "Enter a token"));
  if (error.status === 501) {
    content.push(make("p", {}, "To see one execution, open this page with ",
      make("code", {}, "#/id"), " at the end of its address."));
  }
  return content;
}
