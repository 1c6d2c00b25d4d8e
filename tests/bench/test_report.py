"""What every benchmark writes, and what a resumed one keeps."""

import json

import pytest

from bench.common.report import machine, options, report
from bench.common.store import Store


def test_a_record_says_how_it_was_made(tmp_path, capsys):
    path = tmp_path / "new" / "result.json"
    report(path, {"headline": {"ratio": 1.25, "failures": 0}, "seconds": [1, 2]})
    record = json.loads(path.read_text())
    assert (record["headline"], record["seconds"]) == ({"ratio": 1.25, "failures": 0}, [1, 2])
    assert record["made"].keys() == {"date", "command", "machine"}
    assert record["made"]["machine"] == machine()
    assert capsys.readouterr().out == "headline: ratio 1.25, failures 0\n"
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    report(None, {"headline": {"ratio": 1.25}})
    assert capsys.readouterr().out == "headline: ratio 1.25\n"
    assert list(tmp_path.iterdir()) == []


def test_quick_exists_where_it_is_described():
    assert options("One.\n\nTwo.", quick="a minute").parse_args(["--quick"]).quick
    parser = options("One.\n\nTwo.")
    assert (parser.description, vars(parser.parse_args([]))) == ("One.", {"json": None})


def test_a_store_resumes_what_was_made_with_the_same_settings(tmp_path):
    path = tmp_path / "result.json"
    Store(path, {"seed": 0}, resume=True).add("subj/0", {"accuracy": 0.5})
    resumed = Store(path, {"seed": 0}, resume=True)
    assert resumed.results == {"subj/0": {"accuracy": 0.5}}
    resumed.add("subj/1", {"accuracy": 0.6})
    resumed.write({"headline": {"mean": 0.55}})
    record = json.loads(path.read_text())
    assert (record["headline"], list(record["results"])) == ({"mean": 0.55}, ["subj/0", "subj/1"])
    assert Store(path, {"seed": 0}, resume=False).results == {}
    with pytest.raises(SystemExit, match=r"made with {'seed': 0}, not {'seed': 1}; name another"):
        Store(path, {"seed": 1}, resume=True)
