// What was answered: label bars, adapted beside unadapted, timings, and a file's summary.

import { count, el, percent, plural } from "./dom.js";

const TOP = 5;
const SHOWN = 50; // texts at a time

/** A total over requests: `{requests, ms, tokens, cached}`. */
export class Meter {
  requests = 0;
  ms = 0;
  tokens = 0;
  cached = 0;

  add({ ms, usage }) {
    this.requests += 1;
    this.ms += ms;
    this.tokens += usage.prompt_tokens;
    this.cached += usage.prompt_tokens_details.cached_tokens;
  }
}

/** A line per kind of request: round trips and tokens. */
export function timings(meters) {
  const rows = Object.entries(meters).map(([name, meter]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el("td", {}, count(meter.requests)),
      el("td", {}, `${count(Math.round(meter.ms))} ms`),
      el("td", {}, count(meter.tokens)),
      el("td", {}, count(meter.cached)),
    ),
  );
  const head = ["", "Requests", "Round trip", "Prompt tokens", "Cached"];
  return el(
    "table",
    { class: "timings" },
    el("caption", { class: "visually-hidden" }, "Timings"),
    el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows),
  );
}

/** One article per text, a screenful at a time. `answers` are `{text, adapted, unadapted}`, both of
 * them a list of the tasks' results. */
export function articles(answers) {
  const list = el("div", { class: "articles" });
  const more = el("button", { type: "button", click: showMore }, "");
  let shown = 0;
  function showMore() {
    list.append(...answers.slice(shown, shown + SHOWN).map(article));
    shown = Math.min(answers.length, shown + SHOWN);
    more.textContent = `Show more (${count(answers.length - shown)} left)`;
    more.hidden = shown === answers.length;
  }
  showMore();
  return [list, more];
}

/** A text's answers task by task: `{adapted, unadapted, error}`. */
export function apart({ adapted, unadapted }) {
  return adapted.map((result, index) => {
    const other = unadapted?.[index];
    return { adapted: result, unadapted: other, error: result.error ?? other?.error };
  });
}

/** How many answers differ from the base model's, as a sentence. */
export function changes(answers, noun = "text") {
  const changed = answers.filter(differs).length;
  return `Adaptation changes the top label of ${count(changed)} of ${plural(answers.length, noun)}.`;
}

function differs({ adapted, unadapted, error }) {
  return !error && unadapted !== undefined && unadapted.label !== adapted.label;
}

function article(answer) {
  const tasks = apart(answer).map(verdict);
  return el(
    "article",
    { class: "panel" },
    el("p", { class: "quoted" }, answer.text),
    el("div", { class: tasks.length > 1 ? "beside" : undefined }, ...tasks),
  );
}

/** What one task says; its name is shown where there are several. */
function verdict(answer, _, all) {
  const { adapted, unadapted, error } = answer;
  const name = all.length > 1 ? [el("h3", {}, adapted.task)] : [];
  if (error) return el("section", {}, ...name, el("p", { class: "notice error" }, error.message));
  const heading = el(
    "p",
    { class: "verdict" },
    el("strong", {}, adapted.label),
    el("span", { class: "muted" }, percent(adapted.score)),
  );
  if (differs(answer)) {
    heading.append(
      el("span", { class: "changed" }, "Changed", el("span", {}, `unadapted: ${unadapted.label}`)),
    );
  }
  return el("section", {}, ...name, heading, ...scoreTable(adapted, unadapted));
}

function scoreTable(adapted, unadapted) {
  const base = new Map(unadapted?.scores.map(({ label, score }) => [label, score]));
  const rows = adapted.scores.map(({ label, score }, rank) =>
    el(
      "tr",
      // The base model's favourite stays in sight, or a comparison would hide what it compares.
      { hidden: rank >= TOP && label !== unadapted?.label },
      el("th", { scope: "row" }, label),
      barCell(score, "adapted", label === adapted.label),
      ...(unadapted ? [barCell(base.get(label), "unadapted", label === unadapted.label)] : []),
    ),
  );
  const columns = ["Label", unadapted ? "Adapted" : "Probability", ...(unadapted ? ["Unadapted"] : [])];
  const table = el(
    "table",
    { class: unadapted ? "scores compared" : "scores" },
    el("caption", { class: "visually-hidden" }, "Label probabilities"),
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows),
  );
  const hidden = rows.filter((row) => row.hidden);
  return hidden.length ? [table, expander(hidden, rows.length)] : [table];
}

function expander(hidden, all) {
  const label = (open) => (open ? "Show fewer labels" : `Show all ${count(all)} labels`);
  const toggle = () => {
    const open = hidden[0].hidden;
    for (const row of hidden) row.hidden = !open;
    button.textContent = label(open);
    button.setAttribute("aria-expanded", String(open));
  };
  const button = el(
    "button",
    { type: "button", class: "quiet", "aria-expanded": "false", click: toggle },
    label(false),
  );
  return button;
}

function barCell(share, kind, top) {
  return el(
    "td",
    { class: top ? "best" : undefined },
    bar(share, kind),
    el("span", { class: "value" }, percent(share)),
  );
}

function bar(share, kind) {
  return el("span", { class: `bar ${kind}`, "aria-hidden": "true", vars: { "--share": share } });
}

/** How often each label was given, of a whole file. */
export function distribution(answers) {
  const kinds = answers.some(({ unadapted }) => unadapted) ? ["adapted", "unadapted"] : ["adapted"];
  const tallies = kinds.map((kind) => tally(answers.map((answer) => answer[kind]?.label)));
  const labels = [...new Set(tallies.flatMap((one) => [...one.keys()]))];
  const cell = (number, kind) =>
    el("td", {}, bar(number / answers.length, kind), el("span", { class: "value" }, count(number)));
  const rows = labels.map((label) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, label),
      ...kinds.map((kind, index) => cell(tallies[index].get(label) ?? 0, kind)),
    ),
  );
  const columns = ["Label", ...(kinds.length > 1 ? ["Adapted", "Unadapted"] : ["Rows"])];
  return el(
    "table",
    { class: kinds.length > 1 ? "scores compared" : "scores" },
    el("caption", { class: "visually-hidden" }, "Rows by label"),
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows),
  );
}

/** Label -> how often, the commonest first. */
function tally(labels) {
  const counts = new Map();
  for (const label of labels) if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
  return new Map([...counts].sort((one, other) => other[1] - one[1]));
}
