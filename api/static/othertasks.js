// Further tasks that are asked beside the chosen one: a combobox adds them, a button each removes it.

import { byId, el } from "./dom.js";
import { Picker } from "./picker.js";

/** `onChange()` is called when one was added or removed, `onOpen()` when the list opens. */
export class OtherTasks {
  constructor(onChange, onOpen) {
    Object.assign(this, { onChange, all: [], chosen: "", names: [] });
    this.picker = new Picker(byId("other"), byId("other-list"), (name) => this.#add(name), onOpen);
  }

  /** All tasks there are. */
  offer(names) {
    this.all = names;
    byId("others").hidden = names.length < 2;
    this.#offer();
  }

  /** Show these beside the chosen one, without telling anybody. */
  show(chosen, names) {
    this.chosen = chosen;
    this.names = names.filter((name) => name !== chosen);
    byId("other-names").replaceChildren(...this.names.map((name) => this.#item(name)));
    if (this.names.length) byId("others").open = true;
    this.#offer();
  }

  #offer() {
    const taken = new Set([this.chosen, ...this.names]);
    this.picker.offer(this.all.filter((name) => !taken.has(name)));
  }

  #add(name) {
    this.picker.show("");
    this.show(this.chosen, [...this.names, name]);
    this.onChange();
  }

  #remove(name) {
    this.show(this.chosen, this.names.filter((other) => other !== name));
    byId("other").focus({ preventScroll: true });
    this.onChange();
  }

  #item(name) {
    const label = `Remove ${name}`;
    const button = el("button", { type: "button", "aria-label": label, click: () => this.#remove(name) }, `${name} ×`);
    return el("li", {}, button);
  }
}
