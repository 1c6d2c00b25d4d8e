"""What a person needs to decide whether to use a task that was made: numbers, never a text."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from api.making.draft import Draft
from ifedicl_serve.fitting.judge import DIGITS, Metrics
from ifedicl_serve.fitting.signs import benefit_signs
from ifedicl_serve.fitting.statistics import Doubles
from ifedicl_serve.fitting.task import FittedTask
from ifedicl_serve.schema_jobs import Confusion, HeldOut, MadeLabel, Suspect, TaskReport

MOST = 20  # of confusions and of suspects
# How much more likely another label must be, by the other examples, for one to look mislabelled.
SUSPICIOUS = np.log(20.0)


def report_of(draft: Draft, fitted: FittedTask) -> TaskReport:
    """From the label log-probabilities of every example, each by what was fitted to others."""
    names = [label.name for label in draft.spec.labels]
    predicted = fitted.log_probs.argmax(axis=1)
    before, after = fitted.measured.before, fitted.measured.after
    signs = benefit_signs(before, after) if fitted.tensors else []
    alone = _in_one_fold(draft.labels, draft.folds, len(names))
    return TaskReport(
        rung=fitted.rung.name,
        examples=len(draft.labels),
        adapted=_held_out(after),
        zero_shot=_held_out(before),
        guessing=_guessing(draft.labels, len(names)),
        labels=_labels(draft.labels, predicted, names),
        confused=_confused(draft.labels, predicted, names),
        suspects=_suspects(draft.labels, fitted.log_probs, names, alone),
        warnings=[*draft.warnings, *_unjudged([names[label] for label in alone]), *signs],
    )


def _in_one_fold(
    truth: npt.NDArray[np.int_], folds: npt.NDArray[np.int_], labels: int
) -> list[int]:
    """Labels whose examples lie all in one fold, as few may: a fold follows from the text."""
    return [label for label in range(labels) if len(np.unique(folds[truth == label])) == 1]


def _unjudged(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"{', '.join(map(repr, names))}: all examples of such a label fell into one part of those "
        "that are judged by the others, so they are judged by what was fitted to none of them; add "
        "some"
    ]


def _held_out(metrics: Metrics) -> HeldOut:
    return HeldOut(accuracy=metrics["accuracy"], log_loss=metrics["log_loss"])


def _guessing(truth: npt.NDArray[np.int_], labels: int) -> HeldOut:
    """The log-loss of saying how common each label is, is their entropy."""
    share = np.bincount(truth, minlength=labels) / len(truth)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    return HeldOut(
        accuracy=round(float(share.max()), DIGITS), log_loss=round(float(entropy), DIGITS)
    )


def _labels(
    truth: npt.NDArray[np.int_], predicted: npt.NDArray[np.int_], names: Sequence[str]
) -> list[MadeLabel]:
    told = []
    for label, name in enumerate(names):
        right = int(((predicted == label) & (truth == label)).sum())
        has, given = int((truth == label).sum()), int((predicted == label).sum())
        told.append(
            MadeLabel(
                label=name,
                examples=has,
                recall=round(right / has, DIGITS),
                precision=round(right / given, DIGITS) if given else None,
            )
        )
    return told


def _confused(
    truth: npt.NDArray[np.int_], predicted: npt.NDArray[np.int_], names: Sequence[str]
) -> list[Confusion]:
    wrong = predicted != truth
    pairs = Counter(zip(truth[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    return [
        Confusion(label=names[label], predicted=names[other], examples=count)
        for (label, other), count in pairs.most_common(MOST)
    ]


def _suspects(
    truth: npt.NDArray[np.int_], log_probs: Doubles, names: Sequence[str], alone: Sequence[int]
) -> list[Suspect]:
    """But for rows of labels in `alone`: what they are judged by knows nothing of their label."""
    rows = np.arange(len(truth))
    losses = -log_probs[rows, truth]
    excess = log_probs.max(axis=1) + losses
    suspicious = [
        row
        for row in np.argsort(-losses, kind="stable")
        if excess[row] > SUSPICIOUS and truth[row] not in alone
    ]
    return [
        Suspect(
            index=int(row),
            label=names[truth[row]],
            predicted=names[int(log_probs[row].argmax())],
            loss=round(float(losses[row]), DIGITS),
        )
        for row in suspicious[:MOST]
    ]
