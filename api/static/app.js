// The page: a task and others beside it, an input, its answers and the task's card.

import { taskCard } from "./card.js";
import { byId, count, el, plural } from "./dom.js";
import { FilePanel } from "./filepanel.js";
import { askKey, offerKey } from "./keydialog.js";
import { OtherTasks } from "./othertasks.js";
import { Picker } from "./picker.js";
import { Meter, apart, articles, changes, distribution, timings } from "./results.js";
import { Server, ServerError } from "./server.js";
import { waitVisibly } from "./waiting.js";

const server = new Server(askKey, waitVisibly);
const picker = new Picker(byId("task"), byId("task-list"), (name) => choose(name, true), listTasks);
const others = new OtherTasks(() => choose(picker.value, true), listTasks);
const files = new FilePanel(() => settle(), fail);
let running = null; // the AbortController of what is being classified

// -- tasks

/** Offer the tasks there are now; resolves to those that serve, or to null after an error. */
async function listTasks() {
  try {
    const { data } = await server.tasks();
    const ready = data.filter((task) => task.status === "ready");
    const refused = data.filter((task) => task.status === "refused");
    picker.offer(ready.map((task) => task.id));
    others.offer(ready.map((task) => task.id));
    byId("task-count").textContent = ready.length
      ? `${plural(ready.length, "task")} on this server`
      : "No task is served yet: put an artifact into the server's tasks folder.";
    byId("base-model").textContent = ready.length ? `on ${ready[0].base_model}` : "";
    showRefused(refused);
    return ready;
  } catch (error) {
    fail(error);
    return null;
  }
}

function showRefused(refused) {
  const box = byId("refused");
  box.hidden = !refused.length;
  box.querySelector("summary").textContent = `${plural(refused.length, "artifact")} refused`;
  const items = refused.map(({ id, reason }) => el("li", {}, el("strong", {}, id), ` ${reason}`));
  box.querySelector("ul").replaceChildren(...items);
}

async function choose(name, remember) {
  picker.show(name);
  others.show(name, others.names);
  document.title = `${name} · ifedicl-serve`;
  const url = `?${new URLSearchParams([name, ...others.names].map((one) => ["task", one]))}`;
  if (remember) history.pushState(null, "", url);
  files.sheet?.forget();
  settle();
  const fitted = server.fitted(name).catch((error) => error);
  try {
    const card = await server.card(name);
    const parts = taskCard(card, await fitted);
    if (picker.value !== name) return; // another was chosen meanwhile
    byId("card").replaceChildren(...parts);
    byId("card").hidden = false;
  } catch (error) {
    if (picker.value !== name) return;
    byId("card").hidden = true;
    fail(error);
  }
}

/** The tasks of the address, or the first one. */
async function start() {
  const [asked, ...beside] = new URLSearchParams(location.search).getAll("task");
  const ready = await listTasks();
  const name = ready && (asked ?? ready[0]?.id);
  if (!name) return;
  others.show(name, beside);
  await choose(name, false);
}

// -- classifying

async function submit() {
  if (running) return;
  settle();
  if (!picker.value) return fail(new Error("Choose a task first."));
  const mine = new AbortController();
  running = mine;
  working(true);
  try {
    await (mode() === "csv" ? classifyFile : classifyTyped)(mine.signal);
  } catch (error) {
    if (running !== mine) return; // something else was chosen meanwhile
    if (mode() === "csv" && files.sheet?.answered().length) showFile(files.sheet);
    if (error.name === "AbortError") say("Stopped.");
    else fail(error);
  } finally {
    if (running === mine) rest();
  }
}

async function classifyTyped(signal) {
  const texts = typedTexts();
  if (!texts.length) throw new Error("Type a text first.");
  const tasks = [picker.value, ...others.names];
  const answers = [];
  const meters = await classify(texts, tasks, signal, (index, adapted, unadapted) =>
    answers.push({ text: texts[index], adapted, unadapted }),
  );
  show(summary(answers), timings(meters), ...articles(answers));
  const by = tasks.length > 1 ? ` by ${count(tasks.length)} tasks` : "";
  say(`${plural(answers.length, "text")} classified${by} in ${milliseconds(meters)}.`);
}

async function classifyFile(signal) {
  const { sheet } = files;
  if (!sheet) throw new Error("Choose a CSV file first.");
  if (!sheet.pending().length) sheet.forget(); // once more, from the start
  const rows = sheet.pending();
  if (!rows.length) throw new Error("This column holds no text; choose another one.");
  const texts = rows.map((row) => sheet.text(row));
  const meters = await classify(texts, [picker.value], signal, (index, adapted, unadapted) =>
    sheet.answer(rows[index], adapted[0], unadapted?.[0]),
  );
  showFile(sheet, timings(meters));
  say(`${plural(rows.length, "row")} classified in ${milliseconds(meters)}.`);
}

/** Classify texts, each batch adapted and (to compare) unadapted; returns their meters. */
async function classify(texts, tasks, signal, answer) {
  const options = { truncate: byId("truncate").checked };
  const adapted = server.classify(texts, tasks, options, signal);
  const meters = { Adapted: new Meter() };
  let unadapted = null;
  if (byId("compare").checked) {
    unadapted = server.classify(texts, tasks, { ...options, adapted: false }, signal);
    meters.Unadapted = new Meter();
  }
  for await (const batch of adapted) {
    const other = unadapted && (await unadapted.next()).value;
    meters.Adapted.add(batch);
    if (other) meters.Unadapted.add(other);
    batch.results.forEach((result, index) =>
      answer(batch.start + index, result, other?.results[index]),
    );
    progress(batch.start + batch.results.length, texts.length);
  }
  return meters;
}

function typedTexts() {
  const value = byId("texts").value;
  const texts = mode() === "lines" ? value.split("\n") : [value];
  return texts.map((text) => text.trim()).filter(Boolean);
}

// -- what is seen

const mode = () => document.querySelector("input[name=mode]:checked").value;

const milliseconds = (meters) =>
  `${count(Math.round(Object.values(meters).reduce((sum, { ms }) => sum + ms, 0)))} ms`;

function summary(answers) {
  const compared = answers.some(({ unadapted }) => unadapted);
  const noun = answers[0].adapted.length > 1 ? "answer" : "text";
  const told = compared ? changes(answers.flatMap(apart), noun) : plural(answers.length, "text");
  return el("p", { class: "summary" }, told);
}

/** What a file's answers are so far; the others can be continued with. */
function showFile(sheet, ...timed) {
  const answers = sheet.answered();
  const left = sheet.pending().length;
  const text = `${count(answers.length)} of ${plural(sheet.body.length, "row")} classified. `;
  const compared = answers.some(({ unadapted }) => unadapted);
  show(
    el("p", { class: "summary" }, text + (compared ? changes(answers) : "")),
    ...timed,
    el("div", { class: "panel" }, el("h3", {}, "Rows by label"), distribution(answers)),
    el("button", { type: "button", class: "primary", click: () => save(sheet) }, "Download scored CSV"),
  );
  byId("submit").textContent = left ? `Continue with ${plural(left, "row")}` : "Classify";
}

function save(sheet) {
  const marked = ["\uFEFF", sheet.scored()]; // by the mark spreadsheets know that it is UTF-8
  const url = URL.createObjectURL(new Blob(marked, { type: "text/csv;charset=utf-8" }));
  const name = `${sheet.name.replace(/\.[^.]*$/, "")}-${picker.value}.csv`;
  el("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

function show(...parts) {
  const results = byId("results");
  results.replaceChildren(el("h2", {}, "Results"), ...parts);
  results.hidden = false;
  const outOfSight = results.getBoundingClientRect().top > innerHeight * 0.75; // on a phone
  if (outOfSight) results.scrollIntoView();
}

/** Before anything new: nothing running, no errors, no results of something else. */
function settle() {
  running?.abort();
  rest();
  byId("error").hidden = true;
  byId("results").hidden = true;
  byId("submit").textContent = "Classify";
  say("");
}

function fail(error) {
  const box = byId("error");
  const kind = error instanceof ServerError && [error.status, error.kind].filter(Boolean).join(" ");
  box.replaceChildren(error.message, ...(kind ? [el("span", { class: "kind" }, kind)] : []));
  box.hidden = false;
  say("");
}

function say(text) {
  byId("status").textContent = text;
}

/** Nothing is being classified any more. */
function rest() {
  running = null;
  working(false);
}

function working(busy) {
  byId("submit").disabled = busy;
  byId("cancel").hidden = !busy;
  byId("form").setAttribute("aria-busy", String(busy));
  progress(0, 0);
  if (busy) say("Classifying…");
}

function progress(done, all) {
  const bar = byId("progress");
  bar.hidden = !all || done === all;
  bar.max = all || 1;
  bar.value = done;
  byId("done").textContent = bar.hidden ? "" : `${count(done)} of ${count(all)}`;
}

function showMode() {
  const csv = mode() === "csv";
  byId("csv").hidden = !csv;
  byId("typed").hidden = csv;
  document.querySelector("label[for=texts]").textContent =
    mode() === "lines" ? "Texts, one per line" : "Text";
  settle();
}

// -- events

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
});
byId("form").addEventListener("change", (event) => {
  if (event.target.name === "mode") showMode();
});
byId("compare").addEventListener("change", () => {
  files.sheet?.forget();
  settle();
});
byId("cancel").addEventListener("click", () => running?.abort());
addEventListener("popstate", start);
addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (!file) return;
  document.querySelector("input[value=csv]").checked = true;
  showMode();
  files.open(file);
});
offerKey(start);
start();
