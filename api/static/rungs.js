// Rungs, how much of a task is fitted: this task's in words, and those that were tried.

import { el, percent, plural } from "./dom.js";

const FITTED = {
  "zero-shot": "Nothing: the answer is the model's own.",
  coefficients:
    "Two numbers for each adapted layer and site: how much of the model's own output (β) and of " +
    "the examples' mean activation (λ) goes on to the next layer.",
  channels: "A scale and a shift for each channel of the adapted layers' outputs.",
  bias: "How far to trust the model's scores (sharpness), and how much to favour each label (bias).",
  head: "A vector for each label, which scores the model's last hidden state, and a bias.",
};
const SERVED = {
  nothing: "While serving, the model runs as it would without the task.",
  all: "While serving, every token of a prompt is adapted.",
  tail: "While serving, only the tokens behind the text are adapted.",
};

/** What was fitted, part by part of the rung, and what that changes at serving. */
export function inWords({ rung, extent, layers }) {
  const parts = rung.split("+").map((part) => el("li", {}, el("strong", {}, part), ` ${FITTED[part]}`));
  const served = SERVED[layers.length ? extent : "nothing"];
  return [el("ul", { class: "rung" }, ...parts), el("p", { class: "hint" }, served)];
}

/** A row for each rung that was tried, the chosen one marked. */
export function tried({ rung, calibration }) {
  const rows = calibration.rungs.map((one) => row(one, one.name === rung));
  const head = ["Rung", "Log-loss", "Above best", "Accuracy"];
  return [
    el(
      "table",
      { class: "metrics tried" },
      el("caption", { class: "visually-hidden" }, "Rungs tried"),
      el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows),
    ),
    el(
      "p",
      { class: "hint" },
      "On held-out rows. “Above best” is the log-loss above the best rung's, ± its standard error.",
    ),
  ];
}

function row({ name, numbers, log_loss, excess, standard_error, accuracy }, chosen) {
  return el(
    "tr",
    { "aria-current": chosen ? "true" : undefined },
    el(
      "th",
      { scope: "row" },
      ...breakable(name),
      ...(chosen ? [" ", el("span", { class: "chip" }, "chosen")] : []),
      el("span", { class: "numbers" }, plural(numbers, "number")),
    ),
    el("td", {}, log_loss.toFixed(3)),
    el("td", {}, `${excess.toFixed(3)} ± ${standard_error.toFixed(3)}`),
    el("td", {}, percent(accuracy)),
  );
}

/** A name that, where it is too long for its line, is broken behind a plus sign. */
function breakable(name) {
  return name.split(/(?<=\+)/).flatMap((part) => [part, el("wbr")]);
}
