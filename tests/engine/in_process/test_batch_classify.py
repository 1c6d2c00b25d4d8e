"""`ifedicl classify` on real engines: agreement, bad rows, a kill in the middle, refusals."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from api.batch.command import classify
from bench.common.random_tasks import random_task
from calibration.model.load import load_model
from tests.engine.conftest import TINY_QWEN2
from tests.engine.reference import hooked

LABELS = ("card", "card payment", "cash", "exchange rate")  # of several tokens: three nodes
TEXTS = [f"question number {number} about my card and {number * 7} euros" for number in range(40)]
BLOCK = 32
FLAGS = (
    "--dtype",
    "float32",
    "--max-model-len",
    "128",
    "--enforce-eager",
    "--block-size",
    str(BLOCK),
)

pytestmark = pytest.mark.usefixtures("engine_gone_afterwards")


@pytest.fixture
def engine_gone_afterwards(monkeypatch):
    """Of a command run in this process: what it sets, and what vLLM leaves to the process's end."""
    monkeypatch.setenv("VLLM_PLUGINS", "")
    yield
    if "vllm" in sys.modules:
        from vllm.distributed import cleanup_dist_env_and_memory

        gc.collect()
        cleanup_dist_env_and_memory()


@pytest.fixture(scope="module")
def model(models):
    return models["llama"]


@pytest.fixture(scope="module")
def task(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "banking"
    rung = {"fit": "channels", "extent": "tail", "readout": "head"}
    return folder, random_task(model, folder, 0, labels=LABELS, **rung)


@pytest.fixture(scope="module")
def expected(model, task):
    """Log-probabilities [texts, labels] of the hooked Hugging Face model."""
    return hooked(load_model(str(model), dtype="fp32", device="cpu"), task[1], TEXTS)


@pytest.fixture
def command(model, task, tmp_path):
    """The arguments to classify `in` to `out`, files of tmp_path."""

    def command(source: str, output: str, *flags: str) -> list[str]:
        paths = {"--model": model, "--task": task[0]}
        files = {"--input": tmp_path / source, "--output": tmp_path / output}
        options = [str(part) for option in {**paths, **files}.items() for part in option]
        return [*options, *FLAGS, *flags]

    return command


def write(path: Path, texts) -> None:
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)


def read(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    reader = pyarrow.csv.read_csv if path.suffix == ".csv" else pyarrow.parquet.read_table
    return reader(path).to_pylist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_scores_are_those_of_calibration(command, tmp_path, expected, suffix):
    write(tmp_path / f"in{suffix}", TEXTS)
    assert classify(command(f"in{suffix}", f"out{suffix}", "--batch-size", "16")) == 0
    rows = read(tmp_path / f"out{suffix}")
    assert [(row["id"], row["text"]) for row in rows] == list(enumerate(TEXTS))
    scores = np.array([[row[f"score_{label}"] for label in LABELS] for row in rows])
    np.testing.assert_allclose(np.log(scores), expected, atol=1e-4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert [row["label"] for row in rows] == [LABELS[best] for best in scores.argmax(axis=1)]
    assert [row["score"] for row in rows] == scores.max(axis=1).tolist()


def test_several_tasks_are_one_pass_and_a_text_is_computed_once(
    command, model, task, tmp_path, monkeypatch
):
    """Each scores as in calibration, and all but the first find what their prompts share in the
    prefix cache: whole blocks before a task's tail, and before its labels' own tokens."""
    from api.batch import job

    engines, computed = [], []

    class Counted(job.BatchEngine):
        def _encode(self, *asked):
            engines.append(self)
            outputs = super()._encode(*asked)
            computed.extend(len(o.prompt_token_ids) - o.num_cached_tokens for o in outputs)
            return outputs

    monkeypatch.setattr(job, "BatchEngine", Counted)
    made = {"banking": task[1]}
    for name, readout in (("bias", "bias"), ("rows", "head")):
        made[name] = random_task(
            model, tmp_path / name, 3, labels=LABELS, fit="none", readout=readout
        )
    texts = [f"{number} " + "card " * 70 for number in range(6)]
    write(tmp_path / "in.parquet", texts)
    others = [part for name in ("bias", "rows") for part in ("--task", str(tmp_path / name))]
    assert classify(command("in.parquet", "out.parquet", *others)) == 0
    rows = read(tmp_path / "out.parquet")
    network = load_model(str(model), dtype="fp32", device="cpu")
    for name, artifact in made.items():
        scores = np.log([[row[f"{name}_score_{label}"] for label in LABELS] for row in rows])
        np.testing.assert_allclose(scores, hooked(network, artifact, texts), atol=1e-4)
    (engine,) = engines
    banking = engine.tasks[0]
    paths = [len(node.path) for node in banking.trie.nodes]
    expected = []
    for text in texts:
        tokens = len(engine.prompts.encode(banking, text, False))
        shared = (tokens - banking.tail) // BLOCK * BLOCK
        labels = [tokens + path - tokens // BLOCK * BLOCK for path in paths[1:]]
        expected += [tokens, *labels, tokens - shared, *labels]
    assert computed == expected


def test_bad_rows_lose_nothing_and_one_format_becomes_another(command, tmp_path, capsys):
    write(tmp_path / "in.jsonl", [TEXTS[0], None, "", "word " * 500, TEXTS[1]])
    assert classify(command("in.jsonl", "out.csv")) == 0
    rows = read(tmp_path / "out.csv")
    assert [bool(row["label"]) for row in rows] == [True, False, False, False, True]
    assert "takes at most" in rows[3]["error"]
    assert f"{tmp_path / 'out.csv'}: 5 rows, 3 with an error" in capsys.readouterr().err
    assert classify(command("in.jsonl", "out.csv", "--truncate", "--overwrite")) == 0
    assert [bool(row["label"]) for row in read(tmp_path / "out.csv")] == [True] + [False] * 2 + [
        True
    ] * 2


def test_a_prefix_cache_does_not_reach_from_one_chunk_into_the_next(command, tmp_path):
    """Else the last bits of a score would depend on where a run was stopped."""
    texts = ["card " * 60 + text for text in TEXTS[:8]]  # a common prefix of two blocks
    write(tmp_path / "in.parquet", [*texts, *texts])
    assert classify(command("in.parquet", "out.parquet", "--batch-size", "8")) == 0
    rows = [{**row, "id": None} for row in read(tmp_path / "out.parquet")]
    assert rows[:8] == rows[8:]


def test_killed_and_started_again_it_writes_what_it_would_have_written(command, tmp_path, capsys):
    """`kill -9` of a process after its first chunk; this one goes on, and then does it all.

    Every engine is in the process of its command (conftest), which makes scores exact.
    """
    write(tmp_path / "in.parquet", [f"{text}, {n}" for n in range(16) for text in TEXTS])
    arguments = command("in.parquet", "out.csv", "--batch-size", "16")
    parts = tmp_path / "out.csv.parts"
    process = start(arguments)
    while not (parts / "000000.arrow").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out.csv").exists()
    finished = len(list(parts.glob("0*.arrow")))
    assert 1 <= finished < 40
    assert classify(arguments) == 0
    assert f"{finished * 16:,} of them classified earlier" in capsys.readouterr().err
    assert classify(command("in.parquet", "whole.csv", "--batch-size", "16")) == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "out.csv", "whole.csv"}


def start(arguments: list[str]) -> subprocess.Popen:
    ifedicl = str(Path(sys.executable).parent / "ifedicl")
    return subprocess.Popen(
        [ifedicl, "classify", *arguments], stderr=subprocess.PIPE, text=True, env=os.environ
    )


# -- refusals, before an engine is started


def refusal(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    assert classify(arguments) == 1
    return capsys.readouterr().err


def test_another_input_task_or_option_is_refused_once_a_chunk_is_there(
    command, model, task, tmp_path, capsys
):
    write(tmp_path / "in.csv", TEXTS)
    arguments = command("in.csv", "out.csv", "--batch-size", "16")
    assert classify(arguments) == 0
    (tmp_path / "out.csv").rename(tmp_path / "kept.csv")
    _begin_again(arguments)
    assert "--truncate was False, is True" in refusal(capsys, [*arguments, "--truncate"])
    assert "vLLM's flags was [" in refusal(capsys, [*arguments, "--max-num-seqs", "8"])
    other = random_task(model, tmp_path / "other", 1, labels=LABELS)
    elsewhere = [str(tmp_path / "other") if one == str(task[0]) else one for one in arguments]
    assert f"is digest {other.digest}" in refusal(capsys, elsewhere)
    both = [*arguments, "--task", str(tmp_path / "other")]
    assert f"'digest {other.digest}']" in refusal(capsys, both)
    (tmp_path / "in.csv").write_text((tmp_path / "in.csv").read_text().replace("euros", "pounds"))
    message = refusal(capsys, arguments)
    assert "input was sha256" in message and "remove the folder to start afresh" in message


def _begin_again(arguments: list[str]) -> None:
    """A run that stopped after its first chunk."""
    from api.batch import run

    with pytest.MonkeyPatch.context() as patch:
        write_part = run.Parts.write

        def write_first(self, number, table):
            if number:
                raise KeyboardInterrupt
            write_part(self, number, table)

        patch.setattr(run.Parts, "write", write_first)
        assert classify(arguments) != 0


def test_what_is_there_is_not_overwritten(command, tmp_path, capsys):
    write(tmp_path / "in.csv", TEXTS)
    (tmp_path / "out.csv").write_text("mine")
    assert "out.csv exists; " in refusal(capsys, command("in.csv", "out.csv"))
    assert (tmp_path / "out.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--text-column", "body"), "no column 'body' (columns: 'id', 'text')"),
        (("--text-column", "id"), "column 'id' is int64, expected strings"),
        (("--output", "/nowhere/out.csv"), "/nowhere is not a directory"),
        (("--output", "out.xlsx"), "unknown format '.xlsx'"),
        (("--task", "/nowhere"), "/nowhere: cannot read task.json"),
        (("--input", "/nowhere.csv"), "/nowhere.csv: cannot read"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(command, tmp_path, capsys, flags, message):
    pyarrow.parquet.write_table(pa.table({"id": [1], "text": ["a"]}), tmp_path / "in.parquet")
    assert message in refusal(capsys, [*command("in.parquet", "out.csv"), *flags])
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet"}


def test_a_task_of_another_model_is_refused(command, tmp_path, capsys):
    write(tmp_path / "in.csv", TEXTS)
    arguments = [*command("in.csv", "out.csv"), "--model", str(TINY_QWEN2)]
    assert "calibrated on another model" in refusal(capsys, arguments)


def test_flags_that_tasks_cannot_be_used_with_are_usage_errors(command, tmp_path, capsys):
    write(tmp_path / "in.csv", TEXTS)
    for flags in (("--revision", "main"), ("--convert", "embed"), ("--no-such-flag", "1")):
        assert classify([*command("in.csv", "out.csv"), *flags]) == 2
        assert flags[0] in capsys.readouterr().err


def test_a_task_that_the_engine_loses_stops_the_run(command, tmp_path, capsys, monkeypatch):
    """The engine's own copy of it is gone before the engine looks."""
    from api.batch import job

    class Lost(job.BatchEngine):
        def __init__(self, llm, artifacts, tasks):
            super().__init__(llm, artifacts, tasks)
            for artifact in artifacts:
                (tasks / artifact.spec.name).rename(tasks / f".{artifact.spec.name}")

    monkeypatch.setattr(job, "BatchEngine", Lost)
    write(tmp_path / "in.csv", TEXTS)
    assert "could not be loaded by the engine" in refusal(capsys, command("in.csv", "out.csv"))
    assert not (tmp_path / "out.csv").exists()
