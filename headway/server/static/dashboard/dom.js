// Writing to the page: text as text only, nothing that is there already, and all of one frame together.

export const find = (id) => document.getElementById(id);

/** An element with attributes and children; a string becomes text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) attribute(element, name, value);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for a drawing. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) attribute(element, name, value);
  element.append(...children);
  return element;
}

/** Text, where it is another one: what is left alone keeps a selection, and costs no layout. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** An attribute; null takes it away. */
export function attribute(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** The pairs of a `<dl>`: rows stay, only what is new in them is written. A value may be an element. */
export function pairs(list, entries) {
  while (list.childElementCount > entries.length) list.lastElementChild.remove();
  while (list.childElementCount < entries.length) list.append(make("div", {}, make("dt"), make("dd")));
  entries.forEach(([key, value], at) => {
    const [name, place] = list.children[at].children;
    text(name, key);
    if (typeof value === "string") text(place, value);
    else if (!place.firstChild?.isEqualNode(value)) place.replaceChildren(value);
  });
}

const waiting = new Set();

/**
 * Call `view.paint()` in the next frame, once, however often it is asked for before: a thousand executions that move are one
 * batch of writes, then one layout. A hidden page has no frames, and paints when it is seen again.
 */
export function paint(view) {
  if (!waiting.size) requestAnimationFrame(paintAll);
  waiting.add(view);
}

function paintAll() {
  const views = [...waiting];
  waiting.clear();
  for (const view of views) view.paint();
}

/** Say something to who doesn't see the page, when nothing else is being said. */
export function announce(sentence) {
  const place = find("announcer");
  place.append(make("p", {}, sentence));
  while (place.childElementCount > 5) place.firstElementChild.remove();
}
