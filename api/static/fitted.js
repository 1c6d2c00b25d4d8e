// What calibration fitted, in numbers: what is done at each layer and site, and to the labels' scores.

import { heatmap } from "./charts.js";
import { el, folded } from "./dom.js";

/** Two heat maps, or a sentence where no site is adapted. `adapted` are the card's layers and sites. */
export function injection(numbers, adapted) {
  if (!adapted.layers.length) {
    return [el("p", { class: "muted" }, "Nothing is changed: the task adapts no layer.")];
  }
  return numbers.beta ? coefficients(numbers, adapted) : channels(numbers, adapted);
}

function coefficients({ beta, lambda, ...axes }, adapted) {
  return [
    el("p", { class: "hint" }, "h′ = β·h + λ·v. Without adaptation β is 1 and λ is 0."),
    ...heatmap("Coefficients", axes, adapted, [
      { name: "β", values: beta, centre: 1 },
      { name: "λ", values: lambda, centre: 0 },
    ]),
  ];
}

function channels({ scale, scale_spread: spread, shift, ...axes }, adapted) {
  const told = (row, column) =>
    `Mean ${scale[row][column].toFixed(3)}, standard deviation ${spread[row][column].toFixed(3)}`;
  return [
    el(
      "p",
      { class: "hint" },
      "h′ = scale·h + shift, channel by channel. Shown are the channels' mean scale, with its spread " +
        "under the pointer, and the shift's size (root mean square). Without adaptation scale is 1 " +
        "and shift is 0.",
    ),
    ...heatmap("Channels", axes, adapted, [
      { name: "scale", values: scale, centre: 1, told },
      { name: "shift", values: shift, centre: 0, rising: true },
    ]),
  ];
}

/** Sharpness in a sentence and a bar for each label's bias. */
export function readout({ sharpness, bias, label_rows: labelRows }) {
  const sum = labelRows ? "bias and the score of its label row are" : "bias is";
  const biases = Object.entries(bias);
  const reach = Math.max(...biases.map(([, value]) => Math.abs(value)), 1e-9);
  const rows = biases.map(([label, value]) =>
    el("tr", {}, el("th", { scope: "row" }, label), biasCell(value, reach)),
  );
  const head = ["Label", "Bias"].map((name) => el("th", { scope: "col" }, name));
  const table = el(
    "table",
    { class: "scores" },
    el("caption", { class: "visually-hidden" }, "Biases of the labels"),
    el("thead", {}, el("tr", {}, ...head)),
    el("tbody", {}, ...rows),
  );
  return [
    el(
      "p",
      { class: "hint" },
      `A label's log-probability is multiplied by the sharpness, ${sharpness.toFixed(3)}; then its `,
      `${sum} added.`,
    ),
    folded(table, rows.length, "biases"),
  ];
}

function biasCell(value, reach) {
  const bar = { class: "bar signed", "aria-hidden": "true", vars: { "--share": value / reach } };
  const text = `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
  return el("td", {}, el("span", bar), el("span", { class: "value" }, text));
}
