"""The four subcommands on tiny data, as a person runs them."""

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from calibration.command.artifacts import export, inspect
from calibration.command.calibrate import calibrate as calibrate_command
from calibration.command.evaluate import evaluate
from calibration.data.examples import Example, read_examples, split_held_out
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.errors import DataError

QUICK = ["--rounds", "1", "--local-steps", "2", "--batch-size", "4"]


@pytest.fixture
def files(tmp_path: Path, examples: list[Example]) -> dict[str, Path]:
    """The same rows in each format."""
    table = pyarrow.Table.from_pylist([vars(example) for example in examples])
    paths = {kind: tmp_path / f"rows.{kind}" for kind in ("jsonl", "csv", "parquet")}
    paths["jsonl"].write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    pyarrow.csv.write_csv(table, paths["csv"])
    pyarrow.parquet.write_table(table, paths["parquet"])
    return paths


@pytest.fixture
def chat_folder(llama_folder: Path, tmp_path: Path) -> Path:
    """The LLaMA checkpoint with a chat template, in the one control token that it has."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "chat_llama"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|endoftext|>' + m.role + '\n' + m.content + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|endoftext|>assistant\n' }}{% endif %}"
    )
    return folder


def calibrate(model: Path, out: Path, *arguments: object) -> int:
    options = ["--model", model, "--out", out, *QUICK, *arguments]
    return calibrate_command([str(option) for option in options])


def test_every_format_makes_the_same_task(
    llama_folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    digests = set()
    for kind, path in files.items():
        out = tmp_path / "tasks" / kind
        assert calibrate(llama_folder, out, "--data", path, "--name", "toy") == 0
        digests.add(load_artifact(out).digest)
    assert len(digests) == 1
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == sorted(files)


def test_from_examples_to_a_plain_checkpoint(
    llama_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, data = tmp_path / "toy", files["jsonl"]
    clients = ["--client", data, "--client", files["csv"], "--held-out-data", data]
    paper = ["--fit", "coefficients", "--readout", "none", "--loss", "vocabulary"]
    assert calibrate(llama_folder, out, *clients, "--layers", "last:2", *paper) == 0
    spec = load_artifact(out).spec
    assert (spec.name, spec.layers, spec.calibration.loss) == ("toy", (1, 2), "vocabulary")
    assert spec.calibration.client_sizes == (12, 12)
    assert "coefficients, round 1/1: mean loss" in capsys.readouterr().out

    report = (out / "report" / "report.md").read_text()
    assert (
        "12 rows, each classified by what was fitted to others" in report
        and "| round | client 0 | client 1 |" in report
    )
    for figure in ("loss-coefficients.png", "coefficients.png"):
        assert (out / "report" / figure).read_bytes().startswith(b"\x89PNG")
        assert f"({figure})" in report

    model, json_file = ["--model", str(llama_folder)], tmp_path / "evaluation.json"
    where = ["--task", str(out), "--data", str(data)]
    more = ["--train", str(data), "--shots", "2", "--json", str(json_file)]
    assert evaluate([*model, *where, *more]) == 0
    record = json.loads(json_file.read_text())
    assert list(record["metrics"]) == [
        "zero_shot",
        "zero_shot_mean_removed",
        "few_shot",
        "adapted",
    ]
    assert record["n"] == 12
    assert record["metrics"]["adapted"]["log_loss"] == pytest.approx(
        spec.calibration.metrics["adapted_log_loss"]
    )

    assert inspect([str(out)]) == 0
    assert load_artifact(out).digest[:24] in capsys.readouterr().out

    fused = tmp_path / "fused"
    options = ["--fused", "--task", str(out), "--out", str(fused), "--dtype", "fp32"]
    assert export([*model, *options]) == 0
    config = json.loads((fused / "config.json").read_text())
    assert config["attention_bias"] and config["mlp_bias"]


def test_columns_labels_and_template_are_nameable(llama_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("q,y\n" + "\n".join(f"question {row},{row % 2}" for row in range(8)))
    columns = ["--text-column", "q", "--label-column", "y", "--labels", "1=good news,0=bad"]
    words = ["--template", r"Q: {text}\nA:", "--separator", r"\n", "--sites", "mlp"]
    fit = ["--fit", "channels", "--extent", "tail"]
    assert calibrate(llama_folder, tmp_path / "toy", "--data", data, *columns, *words, *fit) == 0
    spec = load_artifact(tmp_path / "toy").spec
    assert spec.prompt.template == "Q: {text}\nA:" and spec.prompt.separator == "\n"
    assert [(label.name, label.verbalization) for label in spec.labels] == [
        ("1", "good news"),
        ("0", "bad"),
    ]
    assert (spec.sites, spec.extent, spec.fit) == (("mlp",), "tail", "channels")


def test_how_the_model_is_run_is_told_first_and_recorded(
    llama_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In pieces of a text or two, checkpointed."""
    fit = ["--fit", "coefficients", "--readout", "none", "--data", files["jsonl"]]
    run = ["--max-batch-tokens", 40, "--checkpointing", "on"]
    assert calibrate(llama_folder, tmp_path / "toy", *fit, *run) == 0
    told = capsys.readouterr().out
    assert told.startswith("memory: 2 MiB of weights (float32), at most ")
    assert "of activations at 40 padded tokens, checkpointed, " in told
    settings = load_artifact(tmp_path / "toy").spec.calibration.settings
    assert (settings["dtype"], settings["max_batch_tokens"]) == ("float32", 40)


def test_labels_default_to_those_of_all_rows_and_one_without_training_rows_is_warned_of(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One row of 20 is labelled so; this seed holds it out."""
    data = tmp_path / "rows.csv"
    labels = ["rare", *("ab" * 10)[1:]]
    data.write_text("text,label\n" + "".join(f"{row},{y}\n" for row, y in enumerate(labels)))
    _, held_out = split_held_out(read_examples(data), 0.2, seed=15)
    assert "rare" in [example.label for example in held_out]
    fit = ["--fit", "coefficients", "--seed", 15]
    assert calibrate(llama_folder, tmp_path / "toy", "--data", data, *fit) == 0
    spec = load_artifact(tmp_path / "toy").spec
    assert [label.name for label in spec.labels] == ["a", "b", "rare"]
    warning = "no client fits to an example labelled"
    assert f"{warning} 'rare'" in " ".join(capsys.readouterr().out.split())
    report = (tmp_path / "toy" / "report" / "report.md").read_text()
    assert f"{warning} 'rare'" in report and report.count(warning) == 1


def test_prompts_in_the_models_chat_template(
    chat_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, data = tmp_path / "toy", str(files["csv"])
    messages = ["--system", r"Short.\nPlease.", "--user", r"Text: {text}\nTopic?"]
    assert calibrate(chat_folder, out, "--data", data, "--chat", *messages) == 0
    assert capsys.readouterr().err == ""
    prompt = load_artifact(out).spec.prompt
    assert prompt.head == ("<|endoftext|>system\nShort.\nPlease.\n<|endoftext|>user\nText: ")
    assert prompt.tail == "\nTopic?\n<|endoftext|>assistant\n"
    assert (prompt.label_prefix, prompt.separator) == ("", "\n")
    assert prompt.turns is not None and prompt.turns.asked == "<|endoftext|>user\nText: "
    where = ["--model", str(chat_folder), "--task", str(out), "--data", data]
    assert evaluate([*where, "--train", data, "--shots", "2"]) == 0


def test_a_line_says_that_a_model_has_a_chat_template(
    chat_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = ["--data", files["csv"], "--fit", "bias"]
    line = (
        r"prompts are plain (Text: {text}\nLabel:), and this model has a chat template; --chat "
        "writes them in it\n"
    )
    for options, said in (([], line), (["--template", "Text: {text}\nLabel:"], "")):
        assert calibrate(chat_folder, tmp_path / "toy", *data, *options) == 0
        assert capsys.readouterr().err == said
    assert load_artifact(tmp_path / "toy").spec.prompt.turns is None
    assert '"turns"' not in (tmp_path / "toy" / "task.json").read_text()


def test_a_task_takes_the_head_of_another_and_has_its_own_tail_and_labels(
    llama_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    topic, data = tmp_path / "topic", ["--data", files["jsonl"]]
    assert (
        calibrate(
            llama_folder, topic, *data, "--fit", "head", "--template", r"News: {text}\nTopic:"
        )
        == 0
    )
    share = ["--share-with", topic, "--fit", "channels", "--extent", "tail"]
    for template in ([], ["--template", r"{text}\nMood:"], ["--template", r"News: {text}\nMood:"]):
        assert calibrate(llama_folder, tmp_path / "mood", *data, *share, *template) == 0
        prompt = load_artifact(tmp_path / "mood").spec.prompt
        assert (prompt.head, prompt.tail) == ("News: ", "\nMood:" if template else "\nLabel:")
    capsys.readouterr()
    assert inspect([str(tmp_path)]) == 0
    assert 'mood, topic: a text behind "News: " is' in " ".join(capsys.readouterr().out.split())


def test_a_chat_takes_the_head_of_another_in_its_demonstrations_too(
    chat_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = ["--data", files["csv"], "--chat", "--fit", "head"]
    messages = ["--system", "Short.", "--user", r"Text: {text}\nTopic?"]
    assert calibrate(chat_folder, tmp_path / "topic", *data, *messages) == 0
    share = ["--share-with", tmp_path / "topic", "--user", r"{text}\nMood?"]
    assert calibrate(chat_folder, tmp_path / "mood", *data, *share) == 0
    theirs, own = (load_artifact(tmp_path / name).spec.prompt for name in ("topic", "mood"))
    assert own.head == theirs.head == "<|endoftext|>system\nShort.\n<|endoftext|>user\nText: "
    assert own.tail == "\nMood?\n<|endoftext|>assistant\n" == own.turns.tail
    assert own.turns == theirs.turns.model_copy(update={"tail": own.tail})
    assert calibrate(chat_folder, tmp_path / "mood", *data[:2], *share[:2], "--fit", "head") == 1
    error = capsys.readouterr().err
    assert error == f"error: --share-with {tmp_path}/topic: its prompts are a chat's; add --chat\n"
    assert calibrate(chat_folder, tmp_path / "mood", *data, *share, "--system", "Long.") == 1
    assert "begin --template or --user with {text}, and leave --system out" in (
        " ".join(capsys.readouterr().err.split())
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--share-with", "TOPIC"], "add --extent tail, or --fit bias or head"),
        (
            ["--share-with", "TOPIC", "--fit", "head", "--template", "News: {text}:"],
            "begins prompts with 'Text: ', what was typed with 'News: '",
        ),
        (
            ["--share-with", "TOPIC", "--fit", "head", "--chat"],
            "its prompts are plain; leave --chat out",
        ),
        (["--extent", "tail", "--template", "Is {text}"], "is nothing in template 'Is {text}'"),
    ],
)
def test_what_could_not_share_a_text_is_refused(
    chat_folder: Path,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: list[str],
    message: str,
) -> None:
    topic, data = tmp_path / "topic", ["--data", files["csv"]]
    assert calibrate(chat_folder, topic, *data, "--fit", "bias") == 0
    typed = [topic if option == "TOPIC" else option for option in options]
    assert calibrate(chat_folder, tmp_path / "mood", *data, *typed) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_task_that_shares_no_text_is_said_or_refused(
    llama_folder: Path,
    chat_folder: Path,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """As it adapts all tokens; as its tokenizer is another, be it by a chat template."""
    topic, data = tmp_path / "topic", ["--data", files["csv"]]
    paper = ["--fit", "coefficients", "--readout", "none"]
    share = ["--share-with", topic, "--fit", "head"]
    assert calibrate(llama_folder, topic, *data, *paper) == 0
    assert calibrate(llama_folder, tmp_path / "mood", *data, *share) == 0
    assert f"{topic} adapts a text's own tokens, so it shares none" in capsys.readouterr().err
    assert calibrate(chat_folder, tmp_path / "mood", *data, *share) == 1
    assert "calibrated with another tokenizer, so no text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no data given"),
        (["--data", "none.jsonl"], "none.jsonl: cannot read"),
        (["--data", "DATA", "--template", "no place"], "has 0 placeholders {text}"),
        (["--data", "DATA", "--chat"], "this model's tokenizer has no chat template"),
        (["--data", "DATA", "--chat", "--template", "{text}:"], "leave --template and --separator"),
        (["--data", "DATA", "--user", "{text}"], "are messages of a chat; add --chat"),
        (["--data", "DATA", "--template", "{text}: "], "does not tokenise apart from the prompt"),
        (["--data", "DATA", "--labels", "a,b"], "rows.jsonl: unknown label 'energy'"),
        (["--data", "DATA", "--layers", "9"], "layer 9 does not exist"),
        (["--data", "DATA", "--name", "not/a name"], "String should match pattern"),
        (["--data", "DATA", "--held-out", "2"], "held-out fraction is 2.0"),
        (["--data", "DATA", "--text-column", "words"], "no column 'words'"),
        (["--data", "DATA", "--dtype", "int4"], "dtype 'int4' is unknown"),
        (["--data", "DATA", "--loss", "hinge"], "loss 'hinge' is unknown"),
        (["--data", "DATA", "--demonstrations", "-1"], "demonstrations is -1, expected 1 or more"),
    ],
)
def test_errors_are_one_line_and_no_traceback(
    llama_folder: Path,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: list[str],
    message: str,
) -> None:
    arguments = [files["jsonl"] if option == "DATA" else option for option in options]
    assert calibrate(llama_folder, tmp_path / "toy", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "toy").exists()


LONG = "and so on " * 1000


def test_case_4_a_row_that_is_too_long_is_found_before_the_first_round(
    llama_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Also one to measure on, which was found after the last round."""
    test = tmp_path / "test.csv"
    test.write_text(f"text,label\nshort,water\n{LONG},energy\n")
    out, data = tmp_path / "toy", ["--data", files["jsonl"]]
    coefficients = ["--fit", "coefficients", "--readout", "none"]
    for option in ("--held-out-data", "--data"):
        assert calibrate(llama_folder, out, *data, option, test, *coefficients) == 1
        told = capsys.readouterr()
        assert f"{test}: row 2: its prompt has " in told.err and "--truncate" in told.err
        assert told.out.startswith("memory: ") and told.out.count("\n") == 1  # nothing has begun
        assert not out.exists()
    measured = ["--held-out-data", test, "--truncate"]
    assert calibrate(llama_folder, out, *data, *measured, *coefficients) == 0
    assert load_artifact(out).spec.calibration.metrics

    where = ["--model", llama_folder, "--task", out, "--data", test]
    assert evaluate([str(option) for option in where]) == 1
    assert f"{test}: row 2: its prompt has " in capsys.readouterr().err
    assert evaluate([*map(str, where), "--truncate"]) == 0
    shots = ["--truncate", "--train", str(test), "--shots", "2"]
    capsys.readouterr()
    assert evaluate([*map(str, where), *shots]) == 1
    assert "row 1 with 2 demonstrations before it has" in capsys.readouterr().err


def test_case_4_what_is_measured_on_may_change_without_losing_the_fit(
    llama_folder: Path,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from calibration.run import local

    def fails(*_: object) -> None:
        raise DataError("no room left")

    options = ["--data", files["jsonl"], "--fit", "coefficients", "--held-out-data"]
    with monkeypatch.context() as patch:
        patch.setattr(local, "before_and_after", fails)
        assert calibrate(llama_folder, tmp_path / "toy", *options, files["csv"]) == 1
    assert "round 1/1" in capsys.readouterr().out
    assert calibrate(llama_folder, tmp_path / "toy", *options, files["parquet"]) == 0
    assert "round 1/1" not in capsys.readouterr().out


def test_case_14_a_field_that_is_wrong_is_named(
    llama_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = ["--data", files["csv"]]
    assert calibrate(llama_folder, tmp_path / "toy", *data, "--separator", "") == 1
    error = capsys.readouterr().err
    assert error == "error: separator is '': String should have at least 1 character\n"


def test_a_task_of_another_model_is_refused(
    llama_folder: Path, qwen3_folder: Path, files: dict[str, Path], tmp_path: Path, capsys
) -> None:
    assert calibrate(llama_folder, tmp_path / "toy", "--data", files["csv"]) == 0
    task = ["--task", str(tmp_path / "toy"), "--model", str(qwen3_folder)]
    assert evaluate([*task, "--data", str(files["csv"])]) == 1
    assert export([*task, "--fused", "--out", str(tmp_path / "fused")]) == 1
    assert capsys.readouterr().err.count("calibrated on another model") == 2


def test_usage_errors_exit_2_and_help_0(capsys: pytest.CaptureFixture) -> None:
    assert calibrate_command([]) == 2
    assert export(["--nothing"]) == 2
    assert evaluate(["--model=m", "--task=t", "--data=d", "--shots=0"]) == 2  # 0 would be all
    assert evaluate(["--help"]) == 0
    assert "ifedicl evaluate" in capsys.readouterr().out
