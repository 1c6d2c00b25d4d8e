"""What people type."""

from pathlib import Path

import pytest

from calibration.command.parse import (
    parse_labels,
    parse_layers,
    parse_sites,
    unescape,
    verbalize,
)
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


@pytest.mark.parametrize(("content", "message"), [("3", "holds a int"), ("{", "cannot read")])
def test_label_files_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(DataError, match=message):
        parse_labels(f"@{tmp_path / 'labels.json'}", [])


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
