// A combobox over thousands of names: type to filter, arrows and Enter to pick.

import { count, el } from "./dom.js";

const SHOWN = 50;

/** `onPick(name)` is called when another name is chosen, `onOpen()` when the list opens. */
export class Picker {
  constructor(input, list, onPick, onOpen) {
    Object.assign(this, { input, list, onPick, onOpen, names: [], value: "", filter: "", active: -1 });
    input.addEventListener("focus", () => input.select());
    input.addEventListener("click", () => this.#open(""));
    input.addEventListener("input", () => this.#open(input.value));
    input.addEventListener("keydown", (event) => this.#key(event));
    input.addEventListener("blur", () => this.#close());
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus
  }

  /** The names to choose from. */
  offer(names) {
    const same = names.length === this.names.length && names.every((n, i) => n === this.names[i]);
    this.names = names;
    if (this.#isOpen() && !same) this.#show(this.filter);
  }

  /** Show a name as chosen, without telling anybody. */
  show(name) {
    this.value = name;
    this.input.value = name;
  }

  #isOpen() {
    return !this.list.hidden;
  }

  #open(filter) {
    if (!this.#isOpen()) this.onOpen();
    this.#show(filter);
  }

  #show(filter) {
    this.filter = filter;
    const found = matching(this.names, filter);
    const options = found.slice(0, SHOWN).map((name, index) =>
      el(
        "li",
        {
          role: "option",
          id: `${this.list.id}-${index}`,
          "aria-selected": String(name === this.value),
          click: () => this.#pick(name),
        },
        name,
      ),
    );
    const rest = found.length - options.length;
    const note = rest > 0 ? `${count(rest)} more: keep typing` : found.length ? "" : "No such task";
    this.list.replaceChildren(...options);
    if (note) this.list.append(el("li", { role: "presentation", class: "hint" }, note));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.#activate(filter ? 0 : found.indexOf(this.value));
  }

  #close() {
    this.list.hidden = true;
    this.input.value = this.value;
    this.input.setAttribute("aria-expanded", "false");
    this.#activate(-1);
  }

  #options() {
    return this.list.querySelectorAll("[role=option]");
  }

  #activate(index) {
    const options = this.#options();
    this.active = Math.min(index, options.length - 1);
    options.forEach((option, at) => option.classList.toggle("active", at === this.active));
    const option = options[this.active];
    if (!option) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const size = this.#options().length;
      if (!this.#isOpen()) this.#open("");
      else if (size) this.#activate((Math.max(this.active, step < 0 ? 0 : -1) + step + size) % size);
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.#options()[this.active]?.click();
    } else if (event.key === "Escape" && this.#isOpen()) {
      event.stopPropagation();
      this.#close();
    }
  }

  #pick(name) {
    const changed = name !== this.value;
    this.show(name);
    this.#close();
    if (changed) this.onPick(name);
  }
}

/** Names that hold every word typed, those that begin with it first. */
function matching(names, filter) {
  const typed = filter.trim().toLowerCase();
  const words = typed.split(/\s+/);
  const found = names.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
  const begins = (name) => name.toLowerCase().startsWith(typed);
  return [...found.filter(begins), ...found.filter((name) => !begins(name))];
}
