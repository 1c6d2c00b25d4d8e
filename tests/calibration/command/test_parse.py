"""What people type."""

from pathlib import Path

import pytest

from calibration.command.parse import (
    parse_labels,
    parse_layers,
    parse_sites,
    unescape,
)
from ifedicl_serve.contract.words import verbalize
from ifedicl_serve.errors import DataError

SITES = ("attn", "mlp")


def test_labels_default_to_those_found() -> None:
    assert parse_labels(None, ["Card_lost", "b"]) == [("Card_lost", "card lost"), ("b", "b")]


def test_labels_in_the_order_given() -> None:
    assert parse_labels("1=good news, 0=bad", []) == [("1", "good news"), ("0", "bad")]
    assert parse_labels("B,a", []) == [("B", "b"), ("a", "a")]
    assert verbalize(" Sci_Tech ") == "sci tech"


@pytest.mark.parametrize(
    ("content", "labels"),
    [('["World"]', [("World", "world")]), ('{"0": "bad"}', [("0", "bad")])],
)
def test_labels_from_a_file(tmp_path: Path, content: str, labels: list) -> None:
    (tmp_path / "labels.json").write_text(content)
    assert parse_labels(f"@{tmp_path / 'labels.json'}", []) == labels


def test_case_14_a_label_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('["World"]', encoding="utf-8-sig")
    assert parse_labels(f"@{tmp_path / 'labels.json'}", []) == [("World", "world")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", "holds 3, expected a list of label names or an object from name to the words"),
        ("null", "holds null, expected a list"),
        ("{", "cannot read labels"),
        ("[" * 100_000, "cannot read labels: maximum recursion depth exceeded"),
        ('{"a": "b", "delivery": null}', "label 'delivery' is null, expected a string: the words"),
        ('{"a": 1}', "label 'a' is 1, expected a string"),
        ('{"a": {"b": "c"}}', "label 'a' is an object, expected a string"),
        ('["a", null]', "label 2 is null, expected a string: its name"),
        ('["a", ["b"]]', "label 2 is a list, expected a string"),
        ('{"a": "b", "a": "c"}', "label 'a' is there twice; leave one out"),
        ('["a", "a"]', "label 'a' is there twice"),
        ('["a", ""]', "label 2 has an empty name; name it or leave it out"),
        ('{"a": " "}', "the model would read nothing for label 'a'; give it words"),
        ('["US", "us"]', "the model would read 'us' for 'US' and for 'us'; give one of them other"),
    ],
)
def test_case_14_label_files_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        parse_labels(f"@{path}", [])
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "found", "message"),
    [
        ("a,b,", [], "labels 'a,b,': label 3 has an empty name; name it or leave it out"),
        ("a,a", [], "labels 'a,a': label 'a' is there twice"),
        ("a=,b", [], "labels 'a=,b': the model would read nothing for label 'a'"),
        ("x=us,us", [], "the model would read 'us' for 'x' and for 'us'"),
        (None, ["US", "us"], "the labels in the data: the model would read 'us' for 'US' and for"),
        (None, ["_", "a"], "the labels in the data: the model would read nothing for label '_'"),
    ],
)
def test_case_14_labels_that_nobody_could_tell_apart_are_refused(
    text: str | None, found: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        parse_labels(text, found)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", (0, 1, 2, 3)), ("last:2", (2, 3)), ("3,0", (0, 3)), ("1", (1,))],
)
def test_layers(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, 4) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first:2", "expected all, last:K or a list"),
        ("-1", "expected all, last:K or a list"),
        ("", "expected all, last:K or a list"),
        ("last:9", "the model has 4"),
        ("last:0", "the model has 4"),
        ("4", "layer 4 does not exist, the model has layers 0 to 3"),
    ],
)
def test_layers_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_layers(text, 4)


def test_sites_keep_their_order() -> None:
    assert parse_sites("mlp, attn", SITES) == SITES
    with pytest.raises(DataError, match="sites 'ffn': expected some of attn, mlp"):
        parse_sites("ffn", SITES)


def test_templates_are_typed_in_a_shell() -> None:
    assert unescape(r"Text: {text}\nLabel:") == "Text: {text}\nLabel:"
