// A wait that the server asked for, in sight of the person who waits.

import { byId, el } from "./dom.js";

/** Count the seconds down; resolves after the last one, or rejects when `signal` is aborted. */
export function waitVisibly(seconds, error, signal) {
  const notice = byId("wait");
  const left = el("strong", { "aria-hidden": "true" });
  let ticking;
  const done = new Promise((resolve, reject) => {
    const until = Date.now() + seconds * 1000;
    const tick = () => {
      const rest = Math.ceil((until - Date.now()) / 1000);
      left.textContent = `${Math.max(0, rest)} s`;
      if (rest <= 0) resolve();
    };
    tick();
    ticking = setInterval(tick, 200);
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  notice.replaceChildren(`The server asks to wait: ${error.message} Trying again in `, left, ".");
  notice.hidden = false;
  byId("status").textContent = `Waiting ${seconds} seconds, as the server asks.`;
  return done.finally(() => {
    clearInterval(ticking);
    notice.hidden = true;
  });
}
