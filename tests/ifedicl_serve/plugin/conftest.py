"""Slot tables over a folder of three tasks."""

import numpy as np
import pytest
import torch

from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.injection import fold
from ifedicl_serve.plugin.request import TaskKey
from ifedicl_serve.plugin.slots import (
    SlotTables,
)
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    MODEL,
    make_artifact,
)

MAX_TOKENS = 32


@pytest.fixture
def tasks_dir(tmp_path):
    return tmp_path


@pytest.fixture
def digests(tasks_dir):
    """Four artifacts."""
    return [make_artifact(tasks_dir / f"task{n}", seed=n, name=f"task{n}").digest for n in range(4)]


def make_tables(tasks_dir, num_tasks=3, layers=range(LAYERS), dtype=torch.float32, trusted=None):
    return SlotTables(
        tasks_dir=tasks_dir,
        model=MODEL,
        layers=layers,
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_tasks=num_tasks,
        max_tokens=MAX_TOKENS,
        dtype=dtype,
        device=torch.device("cpu"),
        trusted=trusted,
    )


def key_of(task):
    return TaskKey(task) if isinstance(task, str) else task


def holds(tables, task):
    return tables.holds(key_of(task))


def assign(tables, *batch):
    """One (digest or key, tokens) per request; returns each request's slot."""
    counts = np.array([count for _, count in batch], dtype=np.int32)
    tables.assign([key_of(task) for task, _ in batch], counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return [int(tables.token_slots[start]) for start in starts]


def is_identity(tables, slot):
    return bool((tables.scale[:, :, slot] == 1).all() and (tables.shift[:, :, slot] == 0).all())


def holds_exactly(tables, slot, folder):
    artifact = load_artifact(folder)
    injection = fold(artifact.context_vector, artifact.coefficients)
    local = slice(tables.layers.start, tables.layers.stop)
    return torch.equal(tables.scale[:, :, slot], injection.scale[local]) and torch.equal(
        tables.shift[:, :, slot], injection.shift[local].to(tables.shift.dtype)
    )
