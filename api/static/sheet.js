// A CSV file on its way through the classifier: its columns, its texts, and what was answered.

import { format, parse } from "./csv.js";

const NEW_COLUMNS = ["predicted_label", "predicted_score", "unadapted_label", "unadapted_score"];

export class Sheet {
  constructor(name, text) {
    this.name = name;
    Object.assign(this, parse(text));
    if (!this.rows.length) throw new Error(`${name} is empty; expected rows of texts.`);
    this.header = true;
    this.column = this.#likeliestColumn();
    this.forget();
  }

  /** The names of the columns: the first row, or numbers. */
  get columns() {
    return this.rows[0].map((cell, index) => (this.header && cell) || `Column ${index + 1}`);
  }

  /** The rows below the header. */
  get body() {
    return this.header ? this.rows.slice(1) : this.rows;
  }

  /** The text of a row of the body. */
  text(row) {
    return this.rows[row + (this.header ? 1 : 0)][this.column] ?? "";
  }

  /** Rows that have a text and no answer yet. */
  pending() {
    return [...this.body.keys()].filter((row) => this.text(row).trim() && !this.answers[row]);
  }

  /** Rows whose text is empty: they are never sent. */
  get empty() {
    return this.body.filter((cells) => !(cells[this.column] ?? "").trim()).length;
  }

  /** Keep a row's answer, and the base model's if it was asked too. */
  answer(row, adapted, unadapted) {
    this.answers[row] = { adapted, unadapted };
  }

  /** All answers so far, by row; rows without one are left out. */
  answered() {
    return this.answers.filter(Boolean);
  }

  forget() {
    this.answers = [];
  }

  /** The file with its new columns, safe to open in a spreadsheet. */
  scored() {
    const compared = this.answered().some(({ unadapted }) => unadapted);
    const width = this.rows.reduce((most, row) => Math.max(most, row.length), 0);
    const added = NEW_COLUMNS.slice(0, compared ? 4 : 2);
    const padded = (cells, more) => [...cells, ...Array(width - cells.length).fill(""), ...more];
    const rows = this.body.map((cells, row) => padded(cells, this.#cells(row, added.length)));
    return format(this.header ? [padded(this.rows[0], added), ...rows] : rows, this.delimiter);
  }

  #cells(row, width) {
    const { adapted, unadapted } = this.answers[row] ?? {};
    const cells = [adapted, unadapted].flatMap((one) =>
      one ? [one.label, one.score.toFixed(6)] : ["", ""],
    );
    return cells.slice(0, width);
  }

  /** The one called "text" or alike, else the one with the longest cells. */
  #likeliestColumn() {
    const named = this.rows[0].findIndex((cell) =>
      /^(text|sentence|question|message|review|content|input)$/i.test(cell.trim()),
    );
    if (named >= 0) return named;
    const sample = this.rows.slice(1, 50);
    const length = (index) => sample.reduce((sum, row) => sum + (row[index]?.length ?? 0), 0);
    return this.rows[0].reduce((best, _, index) => (length(index) > length(best) ? index : best), 0);
  }
}
