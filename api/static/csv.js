// CSV as RFC 4180 writes it, and as spreadsheets do. Knows no page and no server.

const DELIMITERS = [",", ";", "\t"];

/**
 * The text of a file: as its byte order mark says, else UTF-8, or what Windows wrote before it. Throws an
 * Error for what no text holds: another encoding, or no text at all.
 */
export function decode(bytes) {
  const text = decoded(bytes);
  if (text.includes("\0")) {
    throw new Error("This file is no text, or in an encoding that it does not name. Save it as UTF-8.");
  }
  return text;
}

function decoded(bytes) {
  const [first, second] = new Uint8Array(bytes);
  if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (first === 0xfe && second === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

/**
 * `{delimiter, rows}`; the delimiter is the one that cuts the first row into most cells. If none
 * does, the file has one column, and commas in it are part of the texts.
 */
export function parse(text) {
  const [first] = read(text, DELIMITERS.join(""), 1);
  const cuts = (delimiter) => first?.delimiters[delimiter] ?? 0;
  const delimiter = DELIMITERS.reduce((best, one) => (cuts(one) > cuts(best) ? one : best));
  const rows = read(text, cuts(delimiter) ? delimiter : "").map((row) => row.cells);
  return { delimiter, rows };
}

/** The rows as one text. Cells that a spreadsheet would run as a formula are made text. */
export function format(rows, delimiter) {
  const quoted = (cell) =>
    /["\r\n]/.test(cell) || cell.includes(delimiter) ? `"${cell.replaceAll('"', '""')}"` : cell;
  return rows.map((row) => row.map((cell) => quoted(guarded(cell))).join(delimiter) + "\r\n").join("");
}

/** OWASP's advice against CSV injection, but that plain numbers stay numbers. */
function guarded(cell) {
  const formula = /^\s*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|^[\t\r]/.test(cell);
  const number = /^[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?%?$/i.test(cell);
  return formula && !number ? `'${cell}` : cell;
}

/**
 * Up to `most` rows, each with its cells and how often each delimiter stood outside quotes.
 * Empty lines are no rows. Throws an Error that names the line of a quote nobody closes.
 */
function read(text, delimiters, most = Infinity) {
  const rows = [];
  let row = { cells: [], delimiters: {} };
  let at = text.startsWith("\uFEFF") ? 1 : 0;
  while (at < text.length && rows.length < most) {
    const [cell, end] = text[at] === '"' ? quotedCell(text, at) : ["", at];
    let stop = end;
    while (stop < text.length && !delimiters.includes(text[stop]) && !"\r\n".includes(text[stop])) {
      stop += 1;
    }
    row.cells.push(cell + text.slice(end, stop));
    if (stop < text.length && delimiters.includes(text[stop])) {
      row.delimiters[text[stop]] = (row.delimiters[text[stop]] ?? 0) + 1;
      at = stop + 1;
      if (at < text.length) continue;
      row.cells.push(""); // the file ends behind a delimiter
    } else {
      at = stop + (text.startsWith("\r\n", stop) ? 2 : 1);
    }
    if (row.cells.length > 1 || row.cells[0] !== "") rows.push(row);
    row = { cells: [], delimiters: {} };
  }
  return rows;
}

function quotedCell(text, at) {
  let cell = "";
  for (let from = at + 1; ; ) {
    const quote = text.indexOf('"', from);
    if (quote < 0) {
      const line = text.slice(0, at).split(/\r\n|\r|\n/).length;
      throw new Error(`Line ${line}: a quote is opened and never closed. Close it, or double it.`);
    }
    cell += text.slice(from, quote);
    if (text[quote + 1] !== '"') return [cell, quote + 1];
    cell += '"';
    from = quote + 2;
  }
}
