"""What people type, turned into what calibration takes: labels, layers, sites, templates.

Free of torch, so that it costs nothing to import. Every refusal is an IFedICLError.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ifedicl_serve.contract.words import refuse_unclear, verbalize
from ifedicl_serve.errors import DataError


def parse_labels(text: str | None, found: Sequence[str]) -> list[tuple[str, str]]:
    """Label names with their verbalizations, in order.

    `text` is ``name,name=words,...`` or ``@labels.json`` (a list of names, or an object from
    name to words); without it the labels `found` in the data are taken as they are. Raises
    DataError for labels that the model, or whoever reads its answers, could not tell apart.
    """
    if text is None:
        source, labels = "the labels in the data", [(name, verbalize(name)) for name in found]
    elif text.startswith("@"):
        source, labels = text[1:], _labels_from_file(Path(text[1:]))
    else:
        source, labels = f"labels {text!r}", [_typed_label(part) for part in text.split(",")]
    refuse_unclear(labels, source)
    return labels


def parse_layers(text: str, num_layers: int) -> tuple[int, ...]:
    """``all``, ``last:K`` or a list such as ``0,3,5``."""
    if text == "all":
        return tuple(range(num_layers))
    kind, _, count = text.partition(":")
    numbers = [count] if kind == "last" else text.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise DataError(f"layers {text!r}: expected all, last:K or a list such as 0,3,5")
    values = sorted({int(number) for number in numbers})
    if kind == "last":
        if not 1 <= values[0] <= num_layers:
            raise DataError(f"layers {text!r}: the model has {num_layers}, K must be within them")
        return tuple(range(num_layers - values[0], num_layers))
    if values[-1] >= num_layers:
        raise DataError(
            f"layers {text!r}: layer {values[-1]} does not exist, the model has layers 0 to "
            f"{num_layers - 1}"
        )
    return tuple(values)


def parse_sites(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """A list such as ``attn,mlp``, in the order of `known`."""
    named = {name.strip() for name in text.split(",")}
    if not named <= set(known):
        raise DataError(f"sites {text!r}: expected some of {', '.join(known)}")
    return tuple(name for name in known if name in named)


def unescape(text: str) -> str:
    """A template as typed in a shell, where a newline is written as backslash n."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _typed_label(text: str) -> tuple[str, str]:
    name, given, words = text.partition("=")
    return name.strip(), words.strip() if given else verbalize(name.strip())


def _labels_from_file(path: Path) -> list[tuple[str, str]]:
    try:
        # An object as a tuple of its pairs: a dict would keep the last of those with one name.
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=tuple)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot read labels: {error}") from error
    if isinstance(value, list):
        for number, name in enumerate(value, start=1):
            _refuse_no_text(name, f"{path}: label {number}", "its name")
        return [(name, verbalize(name)) for name in value]
    if isinstance(value, tuple):
        for name, words in value:
            _refuse_no_text(words, f"{path}: label {name!r}", "the words the model reads for it")
        return list(value)
    raise DataError(
        f"{path}: holds {_shown(value)}, expected a list of label names or an object from name to "
        "the words the model reads"
    )


def _refuse_no_text(value: object, what: str, expected: str) -> None:
    if not isinstance(value, str):
        raise DataError(f"{what} is {_shown(value)}, expected a string: {expected}")


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value)
