"""One labelled set split among simulated clients: IID, by Dirichlet shares of each label, one
label per client; and clients that call the labels by each other's names.

Own code, because flwr-datasets 0.6.1, whose partitioners these follow, holds rich below 15 and
fsspec back, and brings `datasets`, pandas and seaborn; scikit-learn has no such split. The
Dirichlet split is draw for draw that of its DirichletPartitioner.

Every client gets at least one example. Equal seeds give equal splits. Knows nothing of models.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from calibration.data.examples import Example, found_labels
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.json_lines import write_objects

ATTEMPTS = 100  # draws of Dirichlet shares until no client is left without examples

Clients = list[list[Example]]


def iid(examples: Sequence[Example], clients: int, seed: int) -> Clients:
    """Shuffled and cut evenly; sizes differ by at most one."""
    _check_enough(len(examples), clients, "rows")
    order = np.random.default_rng(seed).permutation(len(examples))
    return [_chosen(examples, rows) for rows in np.array_split(order, clients)]


def dirichlet(examples: Sequence[Example], clients: int, alpha: float, seed: int) -> Clients:
    """Each label's rows shared out by a draw from Dirichlet(alpha) (Yurochkin et al., arXiv
    1905.12022): the smaller alpha, the fewer labels a client has. Sizes differ too."""
    _check_enough(len(examples), clients, "rows")
    if not alpha > 0:
        raise DataError(f"alpha is {alpha}, expected above 0 (0.5 is the usual skewed split)")
    labels = np.array([example.label for example in examples])
    rng = np.random.default_rng(seed)
    for _ in range(ATTEMPTS):
        parts = _dirichlet_rows(labels, clients, alpha, rng)
        if all(parts):
            break
    else:
        raise DataError(
            f"no Dirichlet({alpha}) split of {len(examples)} rows in {ATTEMPTS} left every one of "
            f"{clients} clients a row; raise alpha or take fewer clients"
        )
    for rows in parts:
        rng.shuffle(rows)
    return [_chosen(examples, rows) for rows in parts]


def one_label(examples: Sequence[Example], clients: int, seed: int) -> Clients:
    """One label per client, labels dealt in turn; clients that share a label split its rows.

    With fewer clients than labels, the rows of the labels that nobody holds are left out.
    """
    _check_enough(len(examples), clients, "rows")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(found_labels(examples))
    parts: Clients = [[] for _ in range(clients)]
    for position, label in enumerate(labels[:clients]):
        holders = range(position, clients, len(labels))
        rows = [row for row, example in enumerate(examples) if example.label == label]
        _check_enough(len(rows), len(holders), f"rows of label {str(label)!r}")
        split = np.array_split(rng.permutation(rows), len(holders))
        for client, chosen in zip(holders, split, strict=True):
            parts[client] = _chosen(examples, chosen)
    return parts


def contradictory(parts: Sequence[Sequence[Example]], contrary: int, seed: int) -> Clients:
    """The same split, but the last `contrary` clients define the labels differently: each has a
    cyclic order of its own in which every label is called by the name of the next."""
    if not 0 <= contrary <= len(parts):
        raise DataError(f"{contrary} contrary clients among {len(parts)}; expected 0 to all")
    names = found_labels([example for part in parts for example in part])
    if len(names) < 2:
        raise DataError(f"labels {names} leave nothing to contradict; expected at least two")
    rng = random.Random(seed)
    agreeing = len(parts) - contrary
    return [list(part) for part in parts[:agreeing]] + [
        _renamed(part, rng.sample(names, len(names))) for part in parts[agreeing:]
    ]


def split(examples: Sequence[Example], how: str, clients: int, seed: int) -> Clients:
    """As typed: ``iid``, ``dirichlet:ALPHA``, ``label`` or ``contradictory:N``, which is an even
    split with N contrary clients."""
    kind, _, value = how.partition(":")
    try:
        if kind == "dirichlet":
            return dirichlet(examples, clients, float(value), seed)
        if kind == "contradictory":
            return contradictory(iid(examples, clients, seed), int(value), seed)
    except ValueError:
        raise DataError(f"{how!r}: expected a number after {kind}:") from None
    if how == "iid":
        return iid(examples, clients, seed)
    if how == "label":
        return one_label(examples, clients, seed)
    raise DataError(f"{how!r}: expected iid, dirichlet:ALPHA, label or contradictory:N")


def write_clients(parts: Sequence[Sequence[Example]], folder: Path) -> list[Path]:
    """Write client-0.jsonl and so on, as `read_examples` and `--client` read them.

    Raises DataError if the folder has such files: those left over would be clients too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if old := sorted(folder.glob("client-*.jsonl")):
        raise DataError(
            f"{folder} holds files of clients already ({old[0].name}, {len(old)} in all); remove "
            "them or choose another folder"
        )
    paths = [folder / f"client-{client}.jsonl" for client in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        with path.open("w", encoding="utf-8") as file:
            write_objects(file, map(asdict, part))
    return paths


def _dirichlet_rows(
    labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = (shares.cumsum() * len(rows)).astype(int)[:-1]
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part += chosen.tolist()
    return parts


def _renamed(part: Sequence[Example], cycle: Sequence[str]) -> list[Example]:
    following = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    return [replace(example, label=following[example.label]) for example in part]


def _chosen(examples: Sequence[Example], rows: Sequence[int] | np.ndarray) -> list[Example]:
    return [examples[row] for row in rows]


def _check_enough(rows: int, clients: int, what: str) -> None:
    if not 1 <= clients <= rows:
        raise DataError(
            f"{rows} {what} cannot be split among {clients} clients; each needs at least one"
        )
