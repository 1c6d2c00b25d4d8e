"""A CSV file: dropped or chosen, read here, scored in batches, and safe to open afterwards."""

import codecs
import csv
import io

import pytest
from playwright.sync_api import expect

from tests.page.pages import answers, drop, file

QUESTIONS = [f'Where is my "card", number {number}?' for number in range(150)]


def sheet(rows, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def table(texts):
    return sheet([["id", "text"], *([str(number), text] for number, text in enumerate(texts))])


@pytest.fixture
def page(visit, url):
    return visit(f"{url}/?task=banking", accept_downloads=True)


def score(page):
    page.get_by_role("button", name="Classify").click()
    page.get_by_role("button", name="Download").wait_for()


def download(page):
    """The scored file's name and rows."""
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    saved = started.value
    text = open(saved.path(), encoding="utf-8-sig", newline="").read()
    return saved.suggested_filename, list(csv.reader(io.StringIO(text)))


def test_a_dropped_file_is_scored_and_comes_back_with_its_columns(page, url):
    drop(page, "questions.csv", table(QUESTIONS))
    expect(page.get_by_role("radio", name="CSV file")).to_be_checked()
    expect(page.locator("#sheet-name")).to_have_text("questions.csv 150 rows")
    score(page)
    name, rows = download(page)
    assert name == "questions-banking.csv"
    assert rows[0] == ["id", "text", "predicted_label", "predicted_score"]
    expected = answers(url, "banking", QUESTIONS)
    assert rows[1:] == [
        [str(number), text, answer["label"], f"{answer['score']:.6f}"]
        for number, (text, answer) in enumerate(zip(QUESTIONS, expected, strict=True))
    ]


def test_a_chosen_file_may_be_compared_too(page, url):
    page.get_by_role("radio", name="CSV file").check()
    page.locator("#file").set_input_files(file("questions.csv", table(QUESTIONS[:20])))
    page.get_by_label("Compare with unadapted").check()
    score(page)
    after, before = (answers(url, "banking", QUESTIONS[:20], adapted=s) for s in (True, False))
    _, (header, *rows) = download(page)
    assert header[2:] == [
        "predicted_label",
        "predicted_score",
        "unadapted_label",
        "unadapted_score",
    ]
    assert [(row[2], row[4]) for row in rows] == [
        (one["label"], two["label"]) for one, two in zip(after, before, strict=True)
    ]
    changed = sum(one["label"] != two["label"] for one, two in zip(after, before, strict=True))
    expect(page.locator(".summary")).to_contain_text(f"{changed} of 20 texts")
    counts = page.get_by_role("table", name="Rows by label").locator("tbody td:nth-child(2)")
    assert sum(int(cell.inner_text()) for cell in counts.all()) == 20


def test_the_likeliest_column_is_proposed_and_another_can_be_chosen(page, url):
    rows = [["id", "question to the bank", "topic"], ["1", "where is my card?", "card"]]
    drop(page, "bank.csv", sheet(rows))
    column = page.get_by_label("Column with the texts")
    expect(column.locator("option:checked")).to_have_text("question to the bank")
    column.select_option("topic")
    score(page)
    _, scored = download(page)
    assert scored[1][3] == answers(url, "banking", ["card"])[0]["label"]


def test_a_file_without_a_header(page):
    drop(page, "plain.csv", "where is my card?\r\nI forgot my PIN\r\n")
    page.get_by_label("The first row names the columns").uncheck()
    expect(page.locator("#sheet-name")).to_have_text("plain.csv 2 rows")
    score(page)
    _, rows = download(page)
    assert [row[0] for row in rows] == ["where is my card?", "I forgot my PIN"]


def test_rows_without_a_text_are_never_sent_and_stay_where_they_are(page):
    drop(page, "gaps.csv", table(["first", "", "third"]))
    expect(page.locator("#sheet-name")).to_have_text("gaps.csv 3 rows, 1 without a text")
    score(page)
    _, rows = download(page)
    assert [bool(row[2]) for row in rows[1:]] == [True, False, True]
    expect(page.get_by_role("status")).to_contain_text("2 rows classified")


def test_cells_a_spreadsheet_would_run_come_back_as_text(page):
    dangerous = ["=1+1", "+1-cmd", "-2+3", "@SUM(A1)", "\t=1", " =1", "＝1"]
    harmless = ["-3.5", "+49", "1e5", "a=b", "-", "12 %"]
    drop(page, "cells.csv", sheet([["text", "note"], *([c, c] for c in dangerous + harmless)]))
    score(page)
    _, (_, *rows) = download(page)
    notes = [row[1] for row in rows]
    assert notes == [f"'{cell}" for cell in dangerous] + ["-3.5", "+49", "1e5", "a=b", "'-", "12 %"]
    assert [row[0] for row in rows] == notes


def test_a_refused_row_leaves_what_was_scored_and_the_rest_can_follow(page):
    """The third batch holds a text that is too long."""
    texts = [*QUESTIONS[:140], "long " * 400]
    drop(page, "long.csv", table(texts))
    score(page)
    expect(page.get_by_role("alert")).to_contain_text("takes at most")
    expect(page.locator(".summary")).to_contain_text("128 of 141 rows classified")
    page.get_by_label("Cut texts that are too long").check()
    page.get_by_role("button", name="Continue with 13 rows").click()
    expect(page.locator(".summary")).to_contain_text("141 of 141 rows classified")
    _, rows = download(page)
    assert all(row[2] for row in rows[1:])


def test_a_semicolon_file_of_windows_comes_back_with_its_semicolons(page):
    page.get_by_role("radio", name="CSV file").check()
    raw = sheet([["id", "text"], ["1", "Wo ist meine Karte für März; und nun?"]], ";")
    page.locator("#file").set_input_files(file("märz.csv", raw.encode("windows-1252")))
    score(page)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    raw = started.value.path().read_bytes()
    assert raw.startswith(codecs.BOM_UTF8)  # case 15: by it Excel knows that it is UTF-8
    lines = raw.decode("utf-8-sig").splitlines()
    assert lines[0] == "id;text;predicted_label;predicted_score"
    assert lines[1].startswith('1;"Wo ist meine Karte für März; und nun?";')


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_case_15_a_byte_order_mark_is_believed(page, url, encoding):
    texts = ["Wo ist meine Karte für März?", "私のカードはどこですか"]
    page.get_by_role("radio", name="CSV file").check()
    raw = ("\ufeff" + table(texts)).encode(encoding)
    page.locator("#file").set_input_files(file("marked.csv", raw))
    expect(page.locator("#sheet-name")).to_have_text("marked.csv 2 rows")
    score(page)
    _, (header, *rows) = download(page)
    assert header[:2] == ["id", "text"]
    assert [row[1] for row in rows] == texts
    assert [row[2] for row in rows] == [one["label"] for one in answers(url, "banking", texts)]


@pytest.mark.parametrize(
    "raw",
    [
        table(["hello"]).encode("utf-16-le"),
        table(["hello"]).encode("utf-32"),
        b"id,text\r\n1,a\0b\r\n",
    ],
    ids=["utf-16 unmarked", "utf-32", "nul"],
)
def test_case_15_a_file_with_nuls_is_no_text(page, raw):
    page.get_by_role("radio", name="CSV file").check()
    page.locator("#file").set_input_files(file("odd.csv", raw))
    expect(page.get_by_role("alert")).to_contain_text("Save it as UTF-8.")
    expect(page.locator("#sheet")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty.csv is empty; expected rows of texts."),
        ('text\r\n"never closed\r\n', "Line 2: a quote is opened and never closed."),
    ],
)
def test_a_file_that_is_no_csv_is_refused_with_what_to_do(page, content, message):
    drop(page, "empty.csv", content)
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(page.locator("#sheet")).to_be_hidden()


CASES = {
    "a,b\r\n1,2\r\n": [["a", "b"], ["1", "2"]],
    "a,b\n1,2": [["a", "b"], ["1", "2"]],
    "a,b\r1,2\r": [["a", "b"], ["1", "2"]],
    '"a ""quoted"" cell",b': [['a "quoted" cell', "b"]],
    '"two\r\nlines, one cell",b\r\nc,d': [["two\r\nlines, one cell", "b"], ["c", "d"]],
    "a,\r\n,b\r\n": [["a", ""], ["", "b"]],
    "a,b,": [["a", "b", ""]],
    "\ufeffa,b\n\n1,2\n": [["a", "b"], ["1", "2"]],
    "a\tb\n1, one\t2": [["a", "b"], ["1, one", "2"]],
    "a;b\n1,5;2": [["a", "b"], ["1,5", "2"]],
    "text\nwell, one column": [["text"], ["well, one column"]],
    'a,b"c': [["a", 'b"c']],
    '"",x': [["", "x"]],
}


def test_csv_is_read_as_rfc_4180_and_spreadsheets_write_it(page):
    parsed = page.evaluate(
        """async (texts) => {
          const { parse } = await import("/page/csv.js");
          return texts.map((text) => parse(text).rows);
        }""",
        list(CASES),
    )
    assert parsed == list(CASES.values())


def test_a_file_of_many_rows_is_read_and_written(page):
    lengths = page.evaluate(
        """async (rows) => {
          const { Sheet } = await import("/page/sheet.js");
          const sheet = new Sheet("many.csv", "id,text\\n" + "1,where is my card?\\n".repeat(rows));
          const answer = { label: "cash", score: 1 };
          for (const row of sheet.pending()) sheet.answer(row, answer);
          return [sheet.answered().length, sheet.scored().split("\\n").length];
        }""",
        300_000,
    )
    assert lengths == [300_000, 300_002]


def test_what_is_written_reads_back(page):
    rows = [
        ["a", 'say "hi"', "two\nlines", "semi;colon, comma", ""],
        ["é", " space ", "", "x", "y"],
    ]
    text = page.evaluate(
        """async (rows) => (await import("/page/csv.js")).format(rows, ",")""", rows
    )
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows
