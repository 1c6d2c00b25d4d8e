// A calibration's two pictures: loss per round, and numbers per layer and site.

import { el, svg } from "./dom.js";

const WIDTH = 360;
const HEIGHT = 150;
const MARGIN = { left: 38, right: 12, top: 12, bottom: 22 };
const MAX_DOTS = 30;

/** Mean loss of each round as a line; what it shows is said in words too. */
export function lossChart(losses) {
  const ticks = niceTicks(Math.min(...losses), Math.max(...losses));
  const low = ticks[0];
  const high = ticks.at(-1);
  const last = losses.length - 1;
  const x = (round) => MARGIN.left + ((WIDTH - MARGIN.left - MARGIN.right) * round) / (last || 1);
  const y = (loss) =>
    MARGIN.top + ((HEIGHT - MARGIN.top - MARGIN.bottom) * (high - loss)) / (high - low);
  const grid = ticks.flatMap((tick) => [
    svg("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(tick), y2: y(tick) }),
    svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, shortest(tick, ticks)),
  ]);
  const every = Math.ceil(losses.length / 8);
  const rounds = losses.flatMap((_, round) =>
    round % every
      ? []
      : [svg("text", { x: x(round), y: HEIGHT - 5, "text-anchor": "middle" }, String(round + 1))],
  );
  const dots = losses.length > MAX_DOTS ? [] : losses.map((loss, round) =>
    svg(
      "circle",
      { class: "dot", cx: x(round), cy: y(loss), r: 3.5 },
      svg("title", {}, `Round ${round + 1}: ${loss.toFixed(4)}`),
    ),
  );
  const points = losses.map((loss, round) => `${x(round)},${y(loss)}`).join(" ");
  const words = `Mean loss by round: ${losses.map((loss) => loss.toFixed(3)).join(", ")}`;
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words },
    ...grid,
    ...rounds,
    svg("polyline", { class: "curve", points }),
    ...dots,
  );
}

/** Three to six round numbers around the values. */
function niceTicks(low, high) {
  const span = high - low || Math.abs(high) / 10 || 1;
  const power = 10 ** Math.floor(Math.log10(span / 3));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= 4);
  const first = Math.floor(low / step);
  const last = Math.max(Math.ceil(high / step), first + 1);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

function shortest(tick, ticks) {
  const digits = Math.max(0, -Math.floor(Math.log10(ticks[1] - ticks[0]) + 1e-9));
  return tick.toFixed(Math.min(digits, 6));
}

/**
 * Quantities at every layer (row) and site (column), coloured by how far they are from the
 * identity, their `centre`; numbers in the cells, so colour says nothing alone. Of a quantity
 * `rising` says that it is never below its centre, and `told(row, column)` what else of a cell is
 * known.
 */
export function heatmap(title, { layers, sites }, adapted, quantities) {
  const drawn = quantities.map((quantity) => ({ ...quantity, reach: reach(quantity) }));
  const rows = layers.map((layer, row) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, String(layer)),
      ...drawn.flatMap((quantity) =>
        sites.map((site, column) =>
          adapted.layers.includes(layer) && adapted.sites.includes(site)
            ? valueCell(quantity, row, column)
            : el("td", { class: "untouched" }, "–", el("span", { class: "visually-hidden" }, " not adapted")),
        ),
      ),
    ),
  );
  const groups = drawn.map(({ name }) =>
    el("th", { scope: "colgroup", colspan: sites.length }, name),
  );
  const columns = drawn.flatMap(() => sites.map((site) => el("th", { scope: "col" }, site)));
  const table = el(
    "table",
    { class: "heatmap" },
    el("caption", { class: "visually-hidden" }, `${title} by layer and site`),
    el(
      "thead",
      {},
      el("tr", {}, el("th", { scope: "col", rowspan: 2 }, "Layer"), ...groups),
      el("tr", {}, ...columns),
    ),
    el("tbody", {}, ...rows),
  );
  const box = { class: "scroll tall", role: "region", "aria-label": title, tabindex: 0 };
  return [el("div", { class: "legends" }, ...drawn.map(legend)), el("div", box, table)];
}

/** The largest distance from the centre. */
function reach({ values, centre }) {
  return Math.max(...values.flat().map((value) => Math.abs(value - centre)), 1e-9);
}

function valueCell({ values, centre, reach, told }, row, column) {
  const value = values[row][column];
  const share = (value - centre) / reach; // in [-1, 1]
  return el(
    "td",
    {
      class: share < 0 ? "cool" : "warm",
      vars: { "--share": Math.abs(share).toFixed(3) },
      title: told?.(row, column),
    },
    rounded(value),
  );
}

/** Two digits, and no "-0.00". */
function rounded(value) {
  return (Math.round(value * 100) / 100 + 0).toFixed(2);
}

function legend({ name, centre, reach, rising }) {
  const ends = [...(rising ? [] : [centre - reach]), centre, centre + reach].map(rounded);
  return el(
    "div",
    { class: "legend" },
    el("span", {}, name),
    el("span", { class: rising ? "ramp rising" : "ramp", "aria-hidden": "true" }),
    el("span", { class: "ends" }, ...ends.map((end) => el("span", {}, end))),
  );
}
