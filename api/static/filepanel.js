// Choosing a CSV file and its column of texts; what becomes of it is decided elsewhere.

import { byId, count, el, plural } from "./dom.js";
import { decode } from "./csv.js";
import { Sheet } from "./sheet.js";

const PREVIEW_ROWS = 4;
const MAX_BYTES = 100 * 1024 * 1024;

/**
 * Holds the chosen sheet, or null. `onChange()` is called for every file and column chosen,
 * `onError(error)` for a file that cannot be read.
 */
export class FilePanel {
  constructor(onChange, onError) {
    Object.assign(this, { onChange, onError, sheet: null });
    byId("file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) this.open(file);
      event.target.value = ""; // so that the same file can be chosen again
    });
    byId("column").addEventListener("change", (event) => {
      this.#choose({ column: Number(event.target.value) });
    });
    byId("header").addEventListener("change", (event) => {
      this.#choose({ header: event.target.checked });
    });
  }

  /** Read a file; also one that was dropped. */
  async open(file) {
    try {
      if (file.size > MAX_BYTES) throw new Error(`${file.name} has more than 100 MiB; split it.`);
      this.sheet = new Sheet(file.name, decode(await file.arrayBuffer()));
    } catch (error) {
      this.sheet = null;
      byId("sheet").hidden = true;
      return this.onError(error);
    }
    byId("header").checked = true;
    this.#choose({});
  }

  #choose(choice) {
    const { sheet } = this;
    Object.assign(sheet, choice);
    sheet.forget();
    const name = el("strong", {}, sheet.name);
    byId("sheet-name").replaceChildren(name, ` ${plural(sheet.body.length, "row")}`);
    if (sheet.empty) byId("sheet-name").append(`, ${count(sheet.empty)} without a text`);
    byId("column").replaceChildren(
      ...sheet.columns.map((title, index) =>
        el("option", { value: index, selected: index === sheet.column }, title),
      ),
    );
    byId("preview").replaceChildren(preview(sheet));
    byId("sheet").hidden = false;
    this.onChange();
  }
}

function preview({ columns, body, column }) {
  const mark = (index) => (index === column ? "chosen" : undefined);
  const cells = (row) =>
    columns.map((_, index) => el("td", { class: mark(index) }, row[index] ?? ""));
  return el(
    "table",
    { class: "preview" },
    el("caption", { class: "visually-hidden" }, "First rows"),
    el(
      "thead",
      {},
      el("tr", {}, ...columns.map((name, i) => el("th", { scope: "col", class: mark(i) }, name))),
    ),
    el("tbody", {}, ...body.slice(0, PREVIEW_ROWS).map((row) => el("tr", {}, ...cells(row)))),
  );
}
