// Writes to the page: text only as text, only what has changed, and all changes of an animation
// frame together.

export const find = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  element.append(...children);
  return element;
}

/** An HTML element with attributes and children; a string becomes text. */
export const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** An SVG element with attributes and children. */
export const makeSvg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Set the text if it differs: unchanged text keeps a selection, and costs no layout. */
export function setText(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Set an attribute if it differs; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Update the rows of a `<dl>` in place. A value is a string or an element. */
export function setPairs(list, entries) {
  while (list.childElementCount > entries.length) list.lastElementChild.remove();
  while (list.childElementCount < entries.length) {
    list.append(make("div", {}, make("dt"), make("dd")));
  }
  entries.forEach(([key, value], at) => {
    const [term, details] = list.children[at].children;
    setText(term, key);
    if (typeof value === "string") setText(details, value);
    else if (!details.firstChild?.isEqualNode(value)) details.replaceChildren(value);
  });
}

/** Draw a progress bar: `track` has the ARIA values, `label` is its name, `shown` from `barOf`. */
export function paintBar(track, label, shown) {
  setAttribute(track, "aria-label", label);
  setAttribute(track, "aria-valuenow", shown.now);
  setAttribute(track, "aria-valuetext", shown.text);
  setAttribute(track, "data-kind", shown.kind);
  // A transform and not a width: the compositor moves it without a layout.
  const transform = shown.scale === null ? "" : `translateX(${shown.scale * 100 - 100}%)`;
  track.firstElementChild.style.transform = transform;
}

const scheduled = new Set();

/**
 * Call `view.paint()` once in the next animation frame. A thousand moving executions are then one
 * batch of writes and one layout. A hidden page has no animation frames: it paints once it is
 * visible.
 */
export function schedulePaint(view) {
  if (!scheduled.size) requestAnimationFrame(paintAll);
  scheduled.add(view);
}

function paintAll() {
  const views = [...scheduled];
  scheduled.clear();
  for (const view of views) view.paint();
}

/** Announce a sentence to screen readers, politely. */
export function announce(sentence) {
  const announcer = find("announcer");
  announcer.append(make("p", {}, sentence));
  while (announcer.childElementCount > 5) announcer.firstElementChild.remove();
}

/** True if the browser opens the link elsewhere, so that the page must not handle the click. */
export const opensElsewhere = (event) =>
  event.ctrlKey || event.metaKey || event.shiftKey || Boolean(event.button);
