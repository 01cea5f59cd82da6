// The list: pages of the API, newest first; what is on the screen is watched live, what is new comes with a gentle poll.

import { count, execution, list, watch } from "./api.js";
import { announce, attribute, find, make, text } from "./dom.js";
import { query, read, same } from "./filters.js";
import { Row } from "./row.js";
import { STATUSES } from "./words.js";

const EVERY = 3000; // ms between two looks at the first page, while the page is seen and the server answers
const SLOWEST = 30000;
const FIRST = 50; // rows of the first page, which is asked for again and again
const NEXT = 200; // of an older one
const MOST = 1000; // rows that a list may grow to at its top by itself: a wall screen is never reloaded
const PATIENCE = 5; // pages in a row that brought nothing, after which older ones are asked for by hand alone
const STILL = 10000; // ms after which a pointer that doesn't move points at nothing: a wall's lies somewhere

/** Tells `on.trouble(error)` or `on.well()` after each look, and `on.link(state)` of the stream. */
export class List {
  #on; #filters = new Map(); #rows = new Map(); #tasks = new Set(); #cursor = null;
  #run = 0; #open = false; #timer = 0; #wait = EVERY; #latest = null; #pointed = -STILL; #stale = new Set(); #refreshing = false;
  #loaded = false; #loading = false; #refused = null; #barren = 0;
  #place = find("rows"); #more = find("more"); #pill = find("pill");
  #seen = new IntersectionObserver((entries) => this.#crossed(entries), { rootMargin: "300px" });
  #end = new IntersectionObserver(([entry]) => entry.isIntersecting && this.#loadMore(), { rootMargin: "1000px" });

  constructor(on) {
    this.#on = on;
    this.#more.addEventListener("click", () => { this.#barren = 0; this.#loadMore(); });
    this.#pill.addEventListener("click", () => this.#release());
    for (const place of [this.#place, this.#pill]) place.addEventListener("pointermove", () => { this.#pointed = performance.now(); });
    document.addEventListener("visibilitychange", () => this.#open && this.#again(0));
    setInterval(() => this.#open && !document.hidden && this.#tick(), 10000);
    this.#controls();
  }

  /** Show what the URL asks for; what is there already stays, and is brought up to date. */
  open() {
    const filters = read();
    const other = !same(filters, this.#filters);
    this.#filters = filters;
    this.#open = true;
    this.#showFilters();
    if (other) this.#clear();
    for (const row of this.#rows.values()) this.#follow(row);
    this.#again(0);
  }

  /** Nothing is asked or watched while another page is shown. */
  close() {
    this.#open = false;
    this.#run += 1;
    clearTimeout(this.#timer);
    for (const row of this.#rows.values()) this.#leave(row);
  }

  /** Begin anew, as a reload would: with another token there may be others to see. */
  restart() {
    this.#clear();
    if (this.#open) this.#again(0);
  }

  // --- asking ---

  #again(wait) {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#timer = setTimeout(() => this.#look(), wait);
  }

  async #look() {
    const run = (this.#run += 1);
    const asked = performance.now();
    let page;
    try {
      page = await list(`${query(this.#filters).slice(1)}&limit=${FIRST}&counts=true`);
    } catch (error) {
      if (run !== this.#run) return;
      this.#wait = Math.min(SLOWEST, this.#wait * 2);
      this.#refused = error;
      this.#on.trouble(error);
      this.#ends();
      if (error.code !== "not_authenticated") this.#again(this.#wait); // else when there is a token
      return;
    }
    if (run !== this.#run) return;
    this.#wait = EVERY;
    this.#refused = null;
    this.#loaded = true;
    this.#on.well();
    if (![...this.#rows.values()].some((row) => row.watching)) this.#on.link(null); // there is no stream to say how it is
    this.#counts(page.counts);
    this.#take(page, asked);
    this.#ends();
    this.#again(EVERY);
  }

  async #loadMore() {
    const cursor = this.#cursor;
    if (!cursor || this.#loading || !this.#open) return;
    this.#loading = true;
    try {
      const page = await list(`${query(this.#filters).slice(1)}&limit=${NEXT}&cursor=${encodeURIComponent(cursor)}`);
      if (cursor !== this.#cursor) return; // the list has begun anew meanwhile
      this.#cursor = page.cursor;
      const older = page.executions.filter((line) => !this.#rows.has(line.execution_id));
      this.#place.append(...older.map((line) => this.#add(line).element));
      this.#barren = older.length ? 0 : this.#barren + 1;
    } catch (error) {
      this.#on.trouble(error);
      this.#barren = PATIENCE; // the button tries again
    } finally {
      this.#loading = false;
      this.#ends();
    }
  }

  /** One more look at what a frame said too little of; one at a time, so that a thousand ends are no flood. */
  async #refresh(row) {
    this.#stale.add(row);
    if (this.#refreshing) return;
    this.#refreshing = true;
    for (const stale of this.#stale) {
      this.#stale.delete(stale);
      if (this.#rows.get(stale.id) !== stale || !this.#open) continue;
      const asked = performance.now();
      try {
        const line = await execution(stale.id);
        stale.look(line, asked);
      } catch {
        continue; // what the frame said stands; the next look at the page tells what is wrong
      }
    }
    this.#refreshing = false;
  }

  // --- rows ---

  /** The newest page: what is known is brought up to date, what is new comes in, unless that moved what somebody looks at. */
  #take(page, asked) {
    const known = page.executions.filter((line) => this.#rows.has(line.execution_id));
    for (const line of known) {
      const row = this.#rows.get(line.execution_id);
      row.look(line, asked);
      this.#follow(row);
    }
    for (const line of page.executions) this.#names(line.task);
    const fresh = page.executions.length - known.length;
    this.#latest = fresh ? page : null;
    if (!fresh) this.#pill.hidden = true;
    else if (!this.#rows.size || !this.#held()) this.#admit(page);
    else this.#offer(fresh, known.length === 0);
  }

  #admit(page) {
    const first = !this.#rows.size;
    const gap = !page.executions.some((line) => this.#rows.has(line.execution_id)); // more came than a page holds
    if (!first && (gap || this.#rows.size > MOST)) this.#drop();
    if (!this.#rows.size) this.#cursor = page.cursor;
    let before = null;
    for (const line of page.executions) {
      const row = this.#rows.get(line.execution_id) ?? this.#add(line);
      if (!row.element.isConnected) {
        if (before) before.after(row.element);
        else this.#place.prepend(row.element);
        if (!first) row.element.classList.add("fresh");
      }
      before = row.element;
    }
    this.#latest = null;
    this.#pill.hidden = true;
  }

  #add(line) {
    const row = new Row(line);
    this.#rows.set(row.id, row);
    this.#names(line.task);
    this.#seen.observe(row.element);
    return row;
  }

  #clear() {
    this.#run += 1;
    this.#drop();
    this.#latest = this.#refused = null;
    this.#loaded = false;
    this.#pill.hidden = true;
    this.#ends();
  }

  #drop() {
    for (const row of this.#rows.values()) {
      this.#leave(row);
      this.#seen.unobserve(row.element);
    }
    this.#rows.clear();
    this.#cursor = null;
    this.#place.replaceChildren();
  }

  /** Whether somebody reads or points here, or is about to press the button, so that nothing may jump. */
  #held() {
    return this.#place.getBoundingClientRect().top < 0 || [this.#place, this.#pill].some((place) =>
      place.contains(document.activeElement) || (place.matches(":hover") && performance.now() - this.#pointed < STILL));
  }

  #offer(fresh, all) {
    const words = `${count(fresh)}${all ? " or more" : ""} new`;
    if (this.#pill.hidden) announce(`${words}, at the top of the list`);
    text(this.#pill, words);
    this.#pill.hidden = false;
  }

  #release() {
    if (this.#latest) this.#admit(this.#latest);
    this.#place.querySelector(".name")?.focus({ preventScroll: true });
    scrollTo({ top: 0 });
  }

  /** What stands below the rows: nothing yet, nothing at all, why not, or more. */
  #ends() {
    const place = find("none");
    const words = this.#rows.size ? null : this.#refused ? refusal(this.#refused) : this.#loaded ? nothing(this.#filters.size, this.#cursor) : null;
    const heading = words?.[0].textContent;
    if (heading !== place.firstChild?.textContent) place.replaceChildren(...(words ?? []));
    place.hidden = !words;
    attribute(this.#place, "aria-busy", this.#loaded || this.#refused ? null : "true");
    this.#more.hidden = !this.#cursor;
    // Observed anew, it tells again whether it is near: a short page may leave it where it was.
    this.#end.unobserve(this.#more);
    if (this.#cursor && this.#barren < PATIENCE) this.#end.observe(this.#more);
  }

  #tick() {
    const now = Date.now();
    requestAnimationFrame(() => { for (const row of this.#rows.values()) row.tick(now); });
  }

  // --- watching ---

  #crossed(entries) {
    for (const entry of entries) {
      const row = this.#rows.get(entry.target.dataset.id);
      if (!row) continue;
      row.near = entry.isIntersecting;
      this.#follow(row);
    }
  }

  /** Watch what is on the screen and goes on; all the page's watches are one socket. */
  #follow(row) {
    if (!this.#open || !row.near || row.ended) return this.#leave(row);
    if (row.watching) return;
    let last = null; // one frame may be told as more than one thing
    const hear = (frame) => {
      if (frame === last) return;
      last = frame;
      if (row.frame(frame)) this.#refresh(row);
    };
    row.watching = watch(row.id, {
      onStatus: hear,
      onStart: hear,
      onProgress: (_, frame) => hear(frame),
      onEnd: (frame) => { hear(frame); row.watching = null; },
      onError: (error) => {
        this.#on.trouble(error);
        if (!error.final) return;
        row.watching = null;
        if (error.code !== "not_authenticated") row.gone(error.code);
      },
      onConnection: (state) => this.#on.link(state),
    });
  }

  #leave(row) {
    row.watching?.stop();
    row.watching = null;
  }

  // --- what stands around it ---

  #controls() {
    const go = (changes, replace) => {
      history[replace ? "replaceState" : "pushState"](null, "", query(this.#filters, changes));
      this.open();
    };
    const link = (event) => {
      const to = event.target.closest("a");
      if (!to || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; // a tab of its own
      event.preventDefault();
      history.pushState(null, "", to.href);
      this.open();
    };
    find("chips").addEventListener("click", link);
    find("clear").addEventListener("click", (event) => { link(event); find("q").focus(); });
    find("none").addEventListener("click", (event) => {
      if (event.target.matches("button")) this.restart();
      else link(event);
    });
    find("task").addEventListener("change", ({ target }) => go({ task: target.value }));
    let pause = 0;
    let typing = false; // one entry in the browser's history for one search, not for each letter
    find("q").addEventListener("input", ({ target }) => {
      clearTimeout(pause);
      pause = setTimeout(() => { go({ q: target.value.trim() }, typing); typing = true; }, 250);
    });
    find("q").addEventListener("blur", () => { typing = false; });
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    const chips = [["", "All"], ...Object.entries(STATUSES)];
    find("chips").append(...chips.map(([status, word]) =>
      make("a", { class: "chip", "data-status": status || "all" }, make("span", {}, word), " ", make("b"))));
  }

  #showFilters() {
    for (const chip of find("chips").children) {
      const status = chip.dataset.status === "all" ? null : chip.dataset.status;
      chip.href = query(this.#filters, { status });
      attribute(chip, "aria-current", (this.#filters.get("status") ?? null) === status ? "true" : null);
    }
    const q = find("q");
    if (q !== document.activeElement) q.value = this.#filters.get("q") ?? "";
    this.#names(this.#filters.get("task"));
    find("task").value = this.#filters.get("task") ?? "";
    find("clear").hidden = this.#filters.size === 0;
  }

  #counts(counts) {
    for (const chip of find("chips").children) {
      const status = chip.dataset.status;
      const number = status === "all" ? Object.values(counts ?? {}).reduce((sum, each) => sum + each, 0) : counts?.[status];
      text(chip.lastElementChild, counts ? count(number) : "");
    }
  }

  /** Names of tasks that were seen, to choose from; not while somebody does. */
  #names(task) {
    if (!task || this.#tasks.has(task)) return;
    this.#tasks.add(task);
    const select = find("task");
    const after = [...this.#tasks].sort()[[...this.#tasks].sort().indexOf(task) + 1];
    select.add(make("option", { value: task }, task), [...select.options].find(({ value }) => value === after) ?? null);
  }
}

function nothing(filtered, further) {
  if (filtered) {
    return [make("h2", {}, further ? "Nothing like that among the newest" : "Nothing like that"),
      make("p", {}, "No execution fits these filters. ", make("a", { href: "?" }, "Show all"))];
  }
  return [make("h2", {}, "No executions yet"),
    make("p", {}, "A task appears here by itself as soon as it is published. Is Headway installed on the Celery app?"),
    make("pre", {}, "import headway\nheadway.install(celery_app)")];
}

function refusal(error) {
  const titles = { 401: "A token is wanted", 403: "Not for you to see", 501: "This result backend can’t be listed",
    503: "The result backend is away", 0: "The server can’t be reached" };
  const words = [make("h2", {}, titles[error.status ?? 0] ?? "The server can’t answer"), make("p", {}, error.message)];
  if (error.status === 401) words.push(make("button", { type: "button" }, "Give a token"));
  if (error.status === 501) words.push(make("p", {}, "An execution can be seen by its id, at ", make("code", {}, "#/id"), " of this page."));
  return words;
}
