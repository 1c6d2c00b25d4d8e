"""A file classified by an engine without a model: order, bad rows, and going on after a stop."""

import json
import threading
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from api.batch.columns import columns_of
from api.batch.parts import Parts
from api.batch.run import Plan, classify_file
from api.batch.source import open_source
from api.classify.encoder import PromptEncoder
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import TaskUnavailableError
from tests.api.conftest import MAX_MODEL_LEN
from tests.api.fake_engine import log_probs
from tests.api.http.test_classify import expected

TEXTS = [f"film number {n} was good" for n in range(22)] + ["the end<|endoftext|> is <s> bad"]


class FakeScorer:
    """Scores by arithmetic; stops, or loses the task, at a prompt it is told to."""

    def __init__(self, registry, tokenizer, *names):
        self.tasks = [registry.get(name) for name in names]
        self.prompts = PromptEncoder(tokenizer, MAX_MODEL_LEN)
        self.scored = 0
        self.starts = 0
        self.stops_at = self.loses_at = None

    @contextmanager
    def start(self):
        self.starts += 1
        yield self

    def scores(self, prompts, on_progress):
        good = sum(any(not isinstance(one, str) for one in row) for row in prompts)
        if self.stops_at is not None and self.scored + good > self.stops_at:
            raise KeyboardInterrupt
        self.scored += good
        on_progress(len(prompts))
        of_tasks = zip(*prompts, strict=True) if prompts else ((),) * len(self.tasks)
        return [self._of_task(*one) for one in zip(self.tasks, of_tasks, strict=True)]

    def _of_task(self, task, prompts):
        rows = [
            np.concatenate(
                [log_probs(task.digest, [*ids, *n.path], n.children) for n in task.trie.nodes]
            )
            for ids in prompts
            if not isinstance(ids, str)
        ]
        choices = np.array(rows, np.float32).reshape(-1, task.trie.paths.shape[1])
        if self.loses_at is not None and self.scored > self.loses_at:
            choices[:] = np.nan
        return choices, None


@pytest.fixture
def scorer(registry, tokenizer):
    return FakeScorer(registry, tokenizer, "topics")


@pytest.fixture
def plan(tmp_path, scorer):
    """Of 23 rows in chunks of 5, parquet to parquet."""

    def plan(texts=TEXTS, output="out.parquet", chunk_rows=5, truncate=False, scorer=scorer):
        path = tmp_path / "in.parquet"
        ids = pa.array(range(len(texts)), pa.int32())
        pyarrow.parquet.write_table(
            pa.table({"id": ids, "text": pa.array(texts, pa.string())}), path
        )
        columns = columns_of([task.spec for task in scorer.tasks], "")
        source = open_source(path, "text", tmp_path / output)
        return Plan(source, tmp_path / output, columns, chunk_rows, truncate)

    return plan


def run(plan, scorer, *on_progress):
    """Classify, or go on; the summary."""
    parts = Parts(plan.output.with_name("parts"))
    parts.begin({})
    return classify_file(plan, parts, scorer.start, *on_progress)


@pytest.mark.parametrize("chunk_rows", [1, 5, 23, 100])
def test_every_row_gets_what_the_server_answers_in_order(
    plan, scorer, registry, tokenizer, chunk_rows
):
    plan = plan(chunk_rows=chunk_rows)
    summary = run(plan, scorer)
    assert (summary.rows, summary.errors, summary.classified) == (23, 0, 23)
    rows = pyarrow.parquet.read_table(plan.output).to_pylist()
    assert [row["id"] for row in rows] == list(range(23))
    for row, text in zip(rows, TEXTS, strict=True):
        scores = expected(registry, tokenizer, "topics", text)
        assert row["text"] == text
        assert row["label"] == max(scores, key=scores.get)
        assert row["score"] == pytest.approx(max(scores.values()))
        assert {name: row[f"score_{name}"] for name in scores} == pytest.approx(scores)
        assert row["error"] is None
    assert sorted(path.name for path in plan.output.parent.iterdir()) == [
        "in.parquet",
        "out.parquet",
    ]


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.jsonl"])
def test_several_tasks_have_their_columns_in_one_pass(plan, registry, tokenizer, tmp_path, output):
    """Each as in a run of its own, also where one of them has no answer: `topics` has a longer
    label than `sst2`, which leaves its texts a token less."""
    scorer = FakeScorer(registry, tokenizer, "sst2", "topics")
    template = token_ids(tokenizer, scorer.tasks[0].spec.prompt.render(""))
    texts = [*TEXTS, " good" * (MAX_MODEL_LEN - len(template)), "", "word " * 100]
    summary = run(plan(texts, output=output, scorer=scorer), scorer)
    rows = read(tmp_path / output)
    assert (summary.rows, summary.errors) == (26, 3)
    for name in ("sst2", "topics"):
        one = FakeScorer(registry, tokenizer, name)
        run(plan(texts, output=f"{name}-{output}", scorer=one), one)
        for row, own in zip(rows, read(tmp_path / f"{name}-{output}"), strict=True):
            del own["text"], own["id"]
            assert {column: row[f"{name}_{column}"] for column in own} == own
    assert rows[23]["sst2_label"] and rows[23]["topics_error"]


def read(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        return pyarrow.csv.read_csv(path).to_pylist()
    return pyarrow.parquet.read_table(path).to_pylist()


def test_bad_rows_say_why_and_lose_nothing(plan, scorer):
    plan = plan(["good", None, "", " \n", "word " * 100, "bad"])
    summary = run(plan, scorer)
    assert (summary.rows, summary.errors, scorer.scored) == (6, 4, 2)
    rows = pyarrow.parquet.read_table(plan.output).to_pylist()
    assert [row["label"] is None for row in rows] == [False, True, True, True, True, False]
    assert [row["score_world"] is None for row in rows] == [False, True, True, True, True, False]
    errors = [row["error"] for row in rows]
    assert errors[:4] == [
        None,
        "the text is null, expected something to classify",
        "the text is empty, expected something to classify",
        "the text is empty, expected something to classify",
    ]
    assert "takes at most" in errors[4] and "--truncate" in errors[4]


def test_long_texts_are_cut_if_asked(plan, scorer):
    assert run(plan(["word " * 100], truncate=True), scorer).errors == 0


def test_a_chunk_of_bad_rows_alone_is_written_too(plan, scorer):
    plan = plan([""] * 7 + ["good"])
    assert run(plan, scorer).errors == 7
    assert len(pyarrow.parquet.read_table(plan.output)) == 8


def test_no_rows_are_a_file_of_columns_and_need_no_engine(plan, scorer):
    plan = plan([])
    assert run(plan, scorer).rows == 0
    assert scorer.starts == 0
    assert pyarrow.parquet.read_table(plan.output).schema.names[:4] == [
        "id",
        "text",
        "label",
        "score",
    ]


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.jsonl"])
def test_a_stopped_run_goes_on_and_its_file_is_that_of_an_uninterrupted_one(plan, scorer, output):
    whole = plan(output=f"whole-{output}")
    run(whole, scorer)
    scorer.scored, scorer.stops_at = 0, 12
    stopped = plan(output=output)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, scorer)
    assert not stopped.output.exists()
    scorer.scored, scorer.stops_at = 0, None
    summary = run(stopped, scorer)
    assert (summary.rows, summary.classified, scorer.scored) == (23, 13, 13)
    assert stopped.output.read_bytes() == whole.output.read_bytes()


def test_a_run_that_only_has_to_be_put_together_needs_no_engine(plan, scorer, monkeypatch):
    plan = plan()
    monkeypatch.setattr(Parts, "remove", lambda self: None)
    run(plan, scorer)
    monkeypatch.undo()
    content = plan.output.read_bytes()
    plan.output.unlink()
    assert run(plan, scorer).classified == 0
    assert (scorer.starts, plan.output.read_bytes()) == (1, content)


def test_a_lost_task_stops_the_run_and_is_no_row(plan, scorer):
    plan = plan()
    scorer.loses_at = 12
    with pytest.raises(TaskUnavailableError, match="could not be loaded by the engine"):
        run(plan, scorer)
    assert not plan.output.exists()
    assert Parts(plan.output.with_name("parts")).finished() == 2


def test_progress_ends_at_all_rows_also_when_it_goes_on(plan, scorer):
    plan = plan([*TEXTS, ""])
    seen = []
    scorer.stops_at = 12
    with pytest.raises(KeyboardInterrupt):
        run(plan, scorer, seen.append)
    assert sum(seen) == 10
    scorer.stops_at = None
    seen.clear()
    run(plan, scorer, seen.append)
    assert (seen[0], sum(seen)) == (10, 24)


def test_the_next_chunk_is_tokenised_while_the_engine_works_and_no_further(plan, scorer):
    """What is read ahead is bounded, and with it memory."""
    tokenised = []
    ready = threading.Semaphore(0)
    encode_for = scorer.prompts.encode_for

    def encode(*arguments):
        tokenised.append(arguments)
        ready.release()
        return encode_for(*arguments)

    scorer.prompts.encode_for = encode
    scores = scorer.scores
    seen = []

    def score(prompts, on_progress):
        assert ready.acquire(timeout=60)  # this chunk
        if len(seen) < 4:
            assert ready.acquire(timeout=60)  # and the one after
            ready.release()
        seen.append(len(tokenised))
        return scores(prompts, on_progress)

    scorer.scores = score
    run(plan(), scorer)
    assert seen == [2, 3, 4, 5, 5]


def test_case_7_rows_of_json_come_back_as_they_went_in_with_results_behind(tmp_path, scorer):
    rows = [
        {"id": 2**64 - 1, "text": "good", "meta": {"k1": 998}},
        {"text": "", "when": 1.0, "nested": [{}, {"x": None}]},
        {"meta": {}, "text": "bad"},
    ]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = columns_of([task.spec for task in scorer.tasks], "predicted_")
    plan = Plan(open_source(source, "text", output), output, columns, 2, truncate=False)
    assert run(plan, scorer).errors == 1
    written = [json.loads(line) for line in output.read_text().splitlines()]
    results = [field.name for field in columns[0].fields]
    for row, line in zip(rows, written, strict=True):
        assert list(line) == [*row, *results]
        assert repr({name: line[name] for name in row}) == repr(row)
    assert [line["predicted_label"] is None for line in written] == [False, True, False]
