"""Slot tables over a folder of three tasks."""

import numpy as np
import pytest
import torch

from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.plugin.artifacts import WorkerArtifacts
from ifedicl_serve.plugin.request import Adaptation, TaskKey
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


def make_tables(
    tasks_dir, num_tasks=3, layers=range(LAYERS), dtype=torch.float32, trusted=None, label_rows=None
):
    return SlotTables(
        WorkerArtifacts(tasks_dir, MODEL, LAYERS, HIDDEN, trusted),
        layers=layers,
        num_tasks=num_tasks,
        max_tokens=MAX_TOKENS,
        dtype=dtype,
        device=torch.device("cpu"),
        label_rows=label_rows,
    )


def key_of(task):
    return TaskKey(task) if isinstance(task, str) else task


def holds(tables, task):
    return tables.holds(key_of(task))


def assign(tables, *batch):
    """One (digest or key, tokens) per request, adapted from the first on; each request's slot."""
    slots = assign_tails(tables, *((task, 0, 0, count) for task, count in batch))
    return [of_request[0] if of_request else None for of_request in slots]


def assign_tails(tables, *batch):
    """One (digest or key, start, tokens computed before, tokens) per request; its tokens' slots."""
    computed, counts = (np.array([one[at] for one in batch], dtype=np.int32) for at in (2, 3))
    adaptations = [Adaptation(key_of(task), start) for task, start, _, _ in batch]
    tables.assign(adaptations, computed, counts)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    slots = tables.token_slots.tolist()
    return [slots[first:end] for first, end in zip(firsts, firsts[1:], strict=False)]


def is_identity(tables, slot):
    return bool((tables.scale[:, :, slot] == 1).all() and (tables.shift[:, :, slot] == 0).all())


def holds_exactly(tables, slot, folder):
    injection = load_artifact(folder).injection
    local = slice(tables.layers.start, tables.layers.stop)
    shift = injection.shift[local].to(tables.shift.dtype)
    scale = injection.scale[local].expand(shift.shape)
    return torch.equal(tables.scale[:, :, slot], scale) and torch.equal(
        tables.shift[:, :, slot], shift
    )
