// Asking for an API key. It stays in this tab's session storage.

import { byId } from "./dom.js";
import { key } from "./server.js";

const dialog = byId("key-dialog");
const input = byId("key");
const button = byId("key-button");

/** Ask for a key; resolves to whether one was given. */
export function askKey(refused) {
  byId("key-why").textContent = refused
    ? "The server refused this key. Enter another one."
    : "This server answers only with an API key.";
  input.value = "";
  return opened();
}

/** Let the key be replaced or forgotten (by an empty one) at any time; `onChange()` follows. */
export function offerKey(onChange) {
  button.addEventListener("click", async () => {
    byId("key-why").textContent = "Enter another key, or none to forget this one.";
    input.value = key.get() ?? "";
    if (await opened()) onChange();
  });
  showButton();
}

function opened() {
  dialog.showModal();
  return new Promise((resolve) => {
    const settle = (given) => {
      if (given && input.value.trim()) key.set(input.value.trim());
      else if (given) key.forget();
      input.value = "";
      listening.abort();
      dialog.close();
      showButton();
      resolve(given);
    };
    const listening = new AbortController();
    const on = (target, event, handler) =>
      target.addEventListener(event, handler, { signal: listening.signal });
    on(dialog.querySelector("form"), "submit", (event) => {
      event.preventDefault();
      settle(true);
    });
    on(byId("key-cancel"), "click", () => settle(false));
    on(dialog, "cancel", () => settle(false));
  });
}

function showButton() {
  button.hidden = key.get() === null;
}
