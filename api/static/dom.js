// Elements without markup: every string becomes a text node, so nothing a server says is HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of this page with that id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. Of `props`, `class` is its class, `vars` are CSS custom properties, functions
 * are event listeners, and everything else is an attribute (false and undefined: left out).
 */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, { vars = {}, ...props }, children) {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  for (const [name, value] of Object.entries(vars)) element.style.setProperty(name, value);
  element.append(...children);
  return element;
}

const OPEN_ITEMS = 12; // more are folded away

/** A list or table of so many items: as it is, or folded away if they are many. */
export function folded(list, items, noun) {
  if (items <= OPEN_ITEMS) return list;
  return el("details", {}, el("summary", {}, `Show all ${count(items)} ${noun}`), list);
}

/** 1234 -> "1,234". */
export const count = (number) => number.toLocaleString("en");

/** "1 text", "2 texts". */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** 0.8312 -> "83.1%". */
export const percent = (share) => `${(100 * share).toFixed(1)}%`;
