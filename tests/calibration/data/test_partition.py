"""Splits among simulated clients: nothing lost, nobody empty, the promised shape."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.data.examples import Example, found_labels, read_examples
from calibration.data.partition import (
    contradictory,
    dirichlet,
    iid,
    one_label,
    split,
    write_clients,
)
from ifedicl_serve.errors import DataError

LABELS = ("anger", "fear", "joy")


def rows(count: int) -> list[Example]:
    return [Example(f"text {row}", LABELS[row % len(LABELS)]) for row in range(count)]


def together(parts: list[list[Example]]) -> Counter[Example]:
    return Counter(example for part in parts for example in part)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32))
def test_iid_is_even_and_loses_nothing(count: int, clients: int, seed: int) -> None:
    count = max(count, clients)
    parts = iid(rows(count), clients, seed)
    assert together(parts) == Counter(rows(count))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


@settings(deadline=None, max_examples=30)
@given(st.floats(0.3, 100), st.integers(1, 6), st.integers(0, 2**32))
def test_dirichlet_loses_nothing_and_leaves_nobody_empty(
    alpha: float, clients: int, seed: int
) -> None:
    parts = dirichlet(rows(300), clients, alpha, seed)
    assert len(parts) == clients
    assert together(parts) == Counter(rows(300))
    assert all(parts)


def test_dirichlet_is_skewed_when_alpha_is_small_and_even_when_it_is_large() -> None:
    def label_counts(alpha: float) -> list[int]:
        parts = dirichlet(rows(300), 5, alpha, seed=0)
        return [Counter(e.label for e in part)[name] for part in parts for name in LABELS]

    assert all(18 <= count <= 22 for count in label_counts(1e6))
    skewed = label_counts(0.1)
    assert max(skewed) > 70 and min(skewed) == 0


@pytest.mark.parametrize("split", [iid, lambda *args: dirichlet(*args[:2], 0.5, args[2])])
def test_equal_seeds_give_equal_splits(split) -> None:
    assert split(rows(60), 5, 3) == split(rows(60), 5, 3)
    assert split(rows(60), 5, 3) != split(rows(60), 5, 4)


def test_dirichlet_is_that_of_flwr_datasets() -> None:
    # DirichletPartitioner(5, "label", 0.5, min_partition_size=1, seed=7) of flwr-datasets 0.6.1
    # over these labels, run once in an environment of its own.
    parts = dirichlet(rows(300), 5, 0.5, seed=7)
    assert [len(part) for part in parts] == [43, 124, 83, 6, 44]
    firsts = [[int(example.text.split()[1]) for example in part[:3]] for part in parts]
    assert firsts == [
        [15, 20, 9],
        [147, 76, 113],
        [154, 272, 256],
        [295, 289, 286],
        [234, 198, 249],
    ]


def test_one_label_per_client() -> None:
    parts = one_label(rows(30), 7, seed=0)
    assert all(len(found_labels(part)) == 1 for part in parts)
    assert together(parts) == Counter(rows(30))
    assert sorted(map(len, parts)) == [3, 3, 4, 5, 5, 5, 5]  # 10 rows in 3, 2 and 2 parts


def test_one_label_with_fewer_clients_than_labels_leaves_labels_out() -> None:
    parts = one_label(rows(30), 2, seed=0)
    assert [len(part) for part in parts] == [10, 10]
    assert len({part[0].label for part in parts}) == 2


def test_contradictory_clients_rename_every_label_consistently() -> None:
    honest = iid(rows(60), 5, seed=0)
    parts = contradictory(honest, 2, seed=0)
    assert parts[:3] == honest[:3]
    for part, truth in zip(parts[3:], honest[3:], strict=True):
        assert [example.text for example in part] == [example.text for example in truth]
        renaming = {(old.label, new.label) for old, new in zip(truth, part, strict=True)}
        assert len(renaming) == len(LABELS)  # a permutation
        assert all(old != new for old, new in renaming)


def test_contradictory_keeps_the_input() -> None:
    honest = iid(rows(12), 3, seed=0)
    contradictory(honest, 3, seed=0)
    assert together(honest) == Counter(rows(12))


def test_written_clients_read_back(tmp_path: Path) -> None:
    parts = iid([Example('naïve\n"quoted", text', "joy"), *rows(9)], 3, seed=0)
    paths = write_clients(parts, tmp_path / "clients")
    assert [path.name for path in paths] == ["client-0.jsonl", "client-1.jsonl", "client-2.jsonl"]
    assert [read_examples(path) for path in paths] == parts


def test_files_of_another_split_are_neither_replaced_nor_left_among_the_new(tmp_path: Path) -> None:
    """Five clients' files with two new ones among them would be five clients again."""
    first = iid(rows(10), 5, seed=0)
    write_clients(first, tmp_path)
    with pytest.raises(DataError, match="holds files of clients already .client-0.jsonl, 5 in all"):
        write_clients(iid(rows(10), 2, seed=1), tmp_path)
    assert [read_examples(tmp_path / f"client-{n}.jsonl") for n in range(5)] == first


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda: iid(rows(3), 4, 0), "3 rows cannot be split among 4 clients"),
        (lambda: iid(rows(3), 0, 0), "among 0 clients"),
        (lambda: dirichlet(rows(30), 5, 0.0, 0), "alpha is 0.0"),
        (lambda: dirichlet(rows(30), 30, 0.01, 0), "raise alpha or take fewer clients"),
        (lambda: one_label(rows(4), 4, 0), "1 rows of label"),
        (lambda: contradictory([rows(3)], 2, 0), "2 contrary clients among 1"),
        (lambda: contradictory([rows(1)], 1, 0), "nothing to contradict"),
    ],
)
def test_refusals(split, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split()


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.5", "label", "contradictory:0"])
@pytest.mark.parametrize("clients", [0, -1])
def test_case_16_a_split_among_nobody_is_refused(how: str, clients: int) -> None:
    """It wrote no file and said so with success."""
    with pytest.raises(DataError, match=f"30 rows cannot be split among {clients} clients"):
        split(rows(30), how, clients, seed=0)
