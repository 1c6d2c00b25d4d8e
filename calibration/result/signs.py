"""Signs that a calibration went wrong, as the paper names them, each with what to do.

Pure functions from numbers to warnings; nothing here stops a run. Clients are named by their
numbers in the federation, which need not start at 0 nor be without gaps. The thresholds are stated
beside the tests they serve.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from calibration.settings import SiteFit
from calibration.stages.extract import ClientVector
from ifedicl_serve.contract.injection import SITES

TINY_RMS = 1e-5  # healthy sites have 1e-3 to 1e1; below this, lambda * v cannot matter
UNIFORM_SPREAD = 0.05  # standard deviation over mean absolute value; Gaussian values have 1.25
LARGE_COEFFICIENT = 10.0  # fitted values stay within about 3
CLIENT_SPREAD = 1.0  # root-mean-square distance from the mean; even halves of banking stay below
ROUND_GROWTH = 2.0  # a round moving this many times as far as the one before


def vector_signs(context_vector: Tensor, mask: Tensor) -> list[str]:
    """Adapted sites whose context vector carries next to nothing."""
    rms = context_vector.square().mean(dim=-1).sqrt()
    mean_size = context_vector.abs().mean(dim=-1).clamp_min(1e-30)
    uniform = (context_vector.std(dim=-1) / mean_size < UNIFORM_SPREAD) & (rms >= TINY_RMS)
    signs = []
    if (tiny := _sites(mask & (rms < TINY_RMS))) != "":
        signs.append(
            f"context vector is tiny (RMS below {TINY_RMS:g}) at {tiny}: the demonstrations "
            "leave no trace there; check the template, or adapt other layers"
        )
    if (flat := _sites(mask & uniform)) != "":
        signs.append(
            f"context vector is near uniform over its dimensions at {flat}: it says nothing "
            "about the task; check the template and the demonstrations"
        )
    return signs


def client_signs(vectors: Mapping[int, ClientVector]) -> list[str]:
    """Clients whose examples all have the same label."""
    signs = []
    for client, vector in vectors.items():
        present = [label for label, count in vector.label_counts.items() if count]
        if len(present) == 1:
            signs.append(
                f"all examples of client {client} are labelled {present[0]!r}: its fit only "
                "learns to say that; give it other classes or leave it out"
            )
    return signs


def counted(vectors: Mapping[int, ClientVector]) -> Mapping[str, float]:
    """How many examples all clients have of each label, as far as they tell."""
    counts: Counter[str] = Counter()
    for vector in vectors.values():
        counts.update(vector.label_counts)
    return counts


def absent_signs(counts: Mapping[str, float]) -> list[str]:
    """Labels that no client has an example of."""
    return [
        f"no client fits to an example labelled {name!r}, so the task has its name to go by alone; "
        "add examples, or leave the label out"
        for name, count in counts.items()
        if count == 0
    ]


def round_signs(fit: SiteFit, history: Tensor, updates: Mapping[int, Tensor]) -> list[str]:
    """Values that diverge, from `history` [rounds + 1, layers, 2, ...] and those of each client
    after the last round."""
    signs = []
    finished = len(history) - 1
    mean = torch.stack(list(updates.values())).mean(dim=0)
    for client, update in updates.items():
        distance = _rms(update - mean)
        if distance > CLIENT_SPREAD:
            signs.append(
                f"round {finished}: {fit} of client {client} are {distance:.2f} away from "
                f"the clients' mean (expected below {CLIENT_SPREAD:g}): its data disagrees with "
                "the others'; use fewer local steps or a lower learning rate"
            )
    moves = [_rms(step) for step in history.diff(dim=0)]
    if finished > 1 and moves[-1] > ROUND_GROWTH * moves[-2] and moves[-1] > CLIENT_SPREAD:
        signs.append(
            f"round {finished}: {fit} moved {moves[-1]:.2f}, {moves[-2]:.2f} the round "
            "before: they are not settling; lower the learning rate"
        )
    if (largest := float(history[-1].abs().max())) > LARGE_COEFFICIENT:
        signs.append(
            f"round {finished}: {fit} reached {largest:.1f} (expected within "
            f"{LARGE_COEFFICIENT:g}): the model is being overwritten; lower the learning rate"
        )
    return signs


def loss_signs(
    fit: SiteFit, losses: Sequence[Sequence[Sequence[float]]], clients: Sequence[int]
) -> list[str]:
    """Losses [rounds][clients][steps] that did not fall; a client that sent none has none."""
    signs = []
    for position, client in enumerate(clients):
        steps = [loss for one_round in losses for loss in one_round[position]]
        if not steps:
            continue
        quarter = max(1, len(steps) // 4)
        first, last = _mean(steps[:quarter]), _mean(steps[-quarter:])
        if not last < first:
            signs.append(
                f"loss of client {client} did not fall with {fit} ({first:.3f} in the first "
                f"quarter of its steps, {last:.3f} in the last); train longer or change the "
                "learning rate"
            )
    return signs


def _sites(found: Tensor) -> str:
    return ", ".join(f"layer {layer} {SITES[site]}" for layer, site in found.nonzero().tolist())


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
