"""What people type, turned into what calibration takes: labels, layers, sites, templates.

Free of torch, so that it costs nothing to import. Every refusal is an IFedICLError.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ifedicl_serve.errors import DataError


def parse_labels(text: str | None, found: Sequence[str]) -> list[tuple[str, str]]:
    """Label names with their verbalizations, in order.

    `text` is ``name,name=words,...`` or ``@labels.json`` (a list of names, or an object from
    name to words); without it the labels `found` in the data are taken as they are.
    """
    if text is None:
        return [(name, verbalize(name)) for name in found]
    if text.startswith("@"):
        return _labels_from_file(Path(text[1:]))
    pairs = []
    for part in text.split(","):
        name, given, words = part.partition("=")
        pairs.append((name.strip(), words.strip() if given else verbalize(name.strip())))
    return pairs


def verbalize(name: str) -> str:
    """The words the model reads for a label: lower case, underscores as spaces."""
    return name.replace("_", " ").lower().strip()


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


def _labels_from_file(path: Path) -> list[tuple[str, str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read labels: {error}") from error
    if isinstance(value, list):
        return [(str(name), verbalize(str(name))) for name in value]
    if isinstance(value, dict):
        return [(name, str(words)) for name, words in value.items()]
    raise DataError(
        f"{path}: holds a {type(value).__name__}, expected a list of label names or an object "
        "from name to the words the model reads"
    )
