// A task's card: what it is, how well it does, and how it was made.

import { lossChart } from "./charts.js";
import { count, el, folded, percent, plural } from "./dom.js";
import { injection, readout } from "./fitted.js";
import { inWords, tried } from "./rungs.js";

/** The card's parts. `fitted` may be an Error: the rest is shown all the same. */
export function taskCard(card, fitted) {
  const { calibration } = card;
  return [
    el("h2", {}, card.id),
    el("p", { class: "muted" }, made(calibration)),
    ...section("Held-out rows", metrics(card.metrics)),
    ...section("What was fitted", ...inWords(card)),
    ...(calibration.rungs.length ? section("Rungs tried", ...tried(card)) : []),
    ...section("Prompt template", el("pre", { class: "template" }, ...template(card.prompt))),
    ...section(`Labels (${count(card.labels.length)})`, labels(card)),
    ...section("Calibration: mean loss per round", curve(calibration)),
    ...pictures(card, fitted),
    ...section("Provenance", ...provenance(card)),
  ];
}

function pictures(card, fitted) {
  if (fitted instanceof Error) {
    return section("Inside the model", el("p", { class: "notice error" }, fitted.message));
  }
  return [
    ...section("Inside the model", ...injection(fitted.injection, card)),
    ...(fitted.readout ? section("Reading the answer", ...readout(fitted.readout)) : []),
  ];
}

function section(title, ...content) {
  return [el("h3", {}, title), ...content];
}

function made({ clients, examples, rounds }) {
  const time = rounds ? ` in ${plural(rounds, "round")}` : "";
  return `Calibrated on ${plural(examples, "example")} of ${plural(clients, "client")}${time}.`;
}

/** The template with its place for the text marked. */
function template({ head, tail }) {
  return [head, el("mark", {}, "{text}"), tail];
}

function labels({ labels, verbalizations }) {
  const read = (label, words) =>
    label === words ? [label] : [label, el("span", { class: "muted" }, ` read as “${words}”`)];
  const items = labels.map((label, index) => el("li", {}, ...read(label, verbalizations[index])));
  return folded(el("ul", { class: "labels" }, ...items), items.length, "labels");
}

/** Pairs of zero-shot and adapted values side by side, and whatever else was measured. */
function metrics({ held_out: heldOut, ...values }) {
  const pairs = Object.keys(values)
    .filter((name) => name.startsWith("adapted_") && zeroShot(name) in values)
    .map((name) => [name.slice("adapted_".length), values[zeroShot(name)], values[name]]);
  const paired = new Set(pairs.flatMap(([name]) => [`adapted_${name}`, `zero_shot_${name}`]));
  const others = Object.entries(values).filter(([name]) => !paired.has(name));
  if (!pairs.length && !others.length) {
    return el("p", { class: "muted" }, "None were held out, so nothing was measured.");
  }
  const rows = pairs.map(([name, before, after]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, spoken(name)),
      el("td", {}, measured(name, before)),
      el("td", { class: "best" }, measured(name, after)),
    ),
  );
  const head = ["", "Unadapted", "Adapted"].map((name) => el("th", { scope: "col" }, name));
  const side = el(
    "table",
    { class: "metrics" },
    el("caption", { class: "visually-hidden" }, "Held-out metrics"),
    el("thead", {}, el("tr", {}, ...head)),
    el("tbody", {}, ...rows),
  );
  const rest = others.map(([name, value]) => `${spoken(name)}: ${measured(name, value)}. `);
  if (heldOut) rest.push(`Measured on ${plural(heldOut, "row")} that no client fitted to.`);
  return el("div", {}, ...(pairs.length ? [side] : []), el("p", { class: "hint" }, ...rest));
}

const zeroShot = (name) => name.replace(/^adapted_/, "zero_shot_");

const spoken = (name) => name.replaceAll("_", " ").replace("f1", "F1");

function measured(name, value) {
  if (name.endsWith("accuracy") || name.endsWith("f1")) return percent(value);
  return Number.isInteger(value) ? count(value) : value.toFixed(3);
}

function curve({ rounds, round_losses: losses }) {
  if (!losses.length) {
    const why = rounds
      ? "Not recorded: withheld for privacy, or made by an older release."
      : "It was fitted without rounds.";
    return el("p", { class: "muted" }, why);
  }
  return lossChart(losses);
}

function provenance({ digest, base_model, layers, sites, calibration }) {
  const { seed, loss, clients, examples, settings, wire_bytes, versions } = calibration;
  const told = new Set(["seed", "loss", "layers", "sites", "rounds"]);
  const origin = [
    ["digest", digest],
    ["base model", base_model],
    ["adapted layers", ranges(layers) || "none"],
    ["adapted sites", sites.join(", ") || "none"],
    ["clients", count(clients)],
    ["examples", count(examples)],
    ["loss", loss],
    ["seed", String(seed)],
  ];
  const rest = [
    ...Object.entries(settings).filter(([name]) => !told.has(name)),
    ...Object.entries(wire_bytes).map(([name, bytes]) => [`bytes, ${spoken(name)}`, count(bytes)]),
    ...Object.entries(versions).map(([name, version]) => [`version, ${name}`, version]),
  ];
  const more = el("summary", {}, "Settings, bytes on the wire and versions");
  return [table(origin), ...(rest.length ? [el("details", {}, more, table(rest))] : [])];
}

function table(entries) {
  const rows = entries.map(([name, value]) =>
    el("tr", {}, el("th", { scope: "row" }, spoken(name)), el("td", {}, String(value))),
  );
  return el("table", { class: "provenance" }, el("tbody", {}, ...rows));
}

/** [0, 1, 2, 5] -> "0–2, 5". */
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run && number === run[1] + 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}
