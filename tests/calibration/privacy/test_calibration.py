"""What leaves a private client: bounded per example, noised, and nothing else."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.command.calibrate import calibrate
from calibration.data.examples import Example
from calibration.model.hooked import HookedModel, Noise
from calibration.model.loss import label_targets
from calibration.model.objective import Objective, example_gradients
from calibration.privacy import manner, reference
from calibration.privacy.accountant import noise_multiplier
from calibration.privacy.reference import task_reference
from calibration.settings import Settings
from calibration.stages.extract import extract_vector
from calibration.stages.fit import fit_round
from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.injection import adapted_mask, fold, initial_coefficients

OPEN = Settings(layers=(0, 1, 2), rounds=2, local_steps=3, batch_size=6, noise=0.0)
PRIVATE = dataclasses.replace(OPEN, epsilon=4.0)


class Silent(np.random.Generator):
    """Draws batches, and no noise."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size):  # type: ignore[override]
        return np.zeros(size)


class Nobody(Silent):
    """Draws empty batches."""

    def random(self, size):  # type: ignore[override]
        return np.ones(size)


@pytest.fixture
def unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors as they are before what is likely noise is taken off."""
    monkeypatch.setattr(manner, "shrunk", lambda noisy, deviation: noisy)


def context_vector() -> torch.Tensor:
    return torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))


def objective(llama: HookedModel, task: TaskDefinition, examples: list[Example]) -> Objective:
    coefficients = initial_coefficients(3, OPEN.layers, OPEN.sites)
    mask = adapted_mask(3, OPEN.layers, OPEN.sites)
    targets = label_targets(llama, task, examples, "restricted")
    no_noise = Noise(0.0, torch.Generator())
    injection = partial(fold, context_vector())
    return Objective(llama, targets, injection, coefficients, mask, no_noise)


def fit(model, task, examples, settings, randomness):
    start = initial_coefficients(3, settings.layers, settings.sites)
    return fit_round(
        model, task, examples, "coefficients", context_vector(), start, settings, 0, 0,
        randomness=randomness,
    )  # fmt: skip


def test_example_gradients_are_autograds_one_by_one(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    """Texts of different lengths and labels of several tokens, in one padded batch."""
    loss_of = objective(llama, task, examples)
    adapted = loss_of.values[loss_of.mask]
    ((loss, rows),) = example_gradients(loss_of, range(12), adapted)
    singles, losses = [], []
    for position in range(12):
        leaf = adapted.clone().requires_grad_()
        loss_alone, alone = loss_of.gradient([position], leaf)
        singles.append(alone)
        losses.append(loss_alone)
    torch.testing.assert_close(rows, torch.stack(singles), rtol=1e-4, atol=1e-5)
    assert rows.flatten(1).norm(dim=1).min() > 0
    assert loss == pytest.approx(sum(losses), rel=1e-5)


def test_without_clipping_and_noise_a_full_batch_is_the_plain_fit(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    whole = {"batch_size": 12, "gradient_clip": 1e6}
    private = fit(llama, task, examples, dataclasses.replace(PRIVATE, **whole), Silent())
    plain = fit(llama, task, examples, dataclasses.replace(OPEN, **whole), Silent())
    torch.testing.assert_close(private.values, plain.values, rtol=1e-4, atol=1e-4)


def test_unbounded_and_without_noise_the_vector_is_the_mean(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], unshrunk: None
) -> None:
    loose = dataclasses.replace(PRIVATE, vector_clip=1e6)
    private = extract_vector(llama, task, examples, loose, 0, Silent())
    plain = extract_vector(llama, task, examples, OPEN, 0)
    torch.testing.assert_close(private.vector, plain.vector, rtol=1e-4, atol=1e-4)


def test_the_vector_stays_within_the_clipping_norm_of_the_reference(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], unshrunk: None
) -> None:
    tight = dataclasses.replace(PRIVATE, vector_clip=0.1)
    vector = extract_vector(llama, task, examples, tight, 0, Silent()).vector
    distance = task_reference(llama, task, tight).distances(vector)
    assert 0 < float(distance.norm()) <= 0.1


def test_the_vectors_noise_is_what_the_budget_says(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], unshrunk: None
) -> None:
    quiet = extract_vector(llama, task, examples, PRIVATE, 0, Silent())
    noisy = extract_vector(llama, task, examples, PRIVATE, 0)
    reference = task_reference(llama, task, PRIVATE)
    noise = reference.distances(noisy.vector) - reference.distances(quiet.vector)
    expected = noise_multiplier(PRIVATE, 12) * PRIVATE.vector_clip / 12
    assert float(noise.std()) == pytest.approx(expected, rel=0.2)  # 384 values: 5.5 sigma


def test_sites_that_are_not_adapted_tell_nothing(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], unshrunk: None
) -> None:
    settings = dataclasses.replace(PRIVATE, layers=(1,), sites=("mlp",))
    one = extract_vector(llama, task, examples[:3], settings, 0).vector
    other = extract_vector(llama, task, examples[3:], settings, 0).vector
    assert (one != other).any(dim=-1).nonzero().tolist() == [[1, 1]]


def test_an_empty_batch_is_a_step_of_noise_alone(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    settings = dataclasses.replace(PRIVATE, weight_decay=0.0)
    start = initial_coefficients(3, PRIVATE.layers, PRIVATE.sites)
    assert torch.equal(fit(llama, task, examples, settings, Nobody()).values, start)


def test_noise_cannot_be_drawn_again_from_the_seed(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], unshrunk: None
) -> None:
    """The coordinator knows the seed, and every other setting."""
    torch.manual_seed(0)
    np.random.seed(0)
    first = fit_and_extract(llama, task, examples)
    torch.manual_seed(0)
    np.random.seed(0)
    second = fit_and_extract(llama, task, examples)
    assert not any(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def fit_and_extract(llama: HookedModel, task: TaskDefinition, examples: list[Example]):
    start = initial_coefficients(3, PRIVATE.layers, PRIVATE.sites)
    update = fit_round(
        llama, task, examples, "coefficients", context_vector(), start, PRIVATE, 0, 0
    )
    return extract_vector(llama, task, examples, PRIVATE, 0).vector, update.values


def test_label_counts_and_losses_stay_on_the_client(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    told = []
    start = initial_coefficients(3, PRIVATE.layers, PRIVATE.sites)
    update = fit_round(
        llama, task, examples, "coefficients", context_vector(), start, PRIVATE, 0, 0,
        on_step=lambda step, loss: told.append(loss),
    )  # fmt: skip
    vector = extract_vector(llama, task, examples, PRIVATE, 0)
    assert update.losses == () and update.count == 12
    assert vector.label_counts == {} and vector.count == 12
    assert len(told) == PRIVATE.local_steps  # its owner may watch


def test_demonstrations_are_limited_without_looking_at_labels(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], monkeypatch
) -> None:
    """Evened out over labels, one example would decide which others are used."""
    rendered, shown = manner.rendered, []

    def spy(model, task, examples):
        shown.append([example.text for example in examples])
        return rendered(model, task, examples)

    for module in (manner, reference):
        monkeypatch.setattr(module, "rendered", spy)
    settings = dataclasses.replace(PRIVATE, demonstrations=4)
    relabelled = [Example(example.text, task.names[0]) for example in examples]
    for client in (examples, relabelled):
        assert extract_vector(llama, task, client, settings, 0).count == 4
    public, used, same_public, also_used = shown
    assert len(used) == 4 and used == also_used and public == same_public


@pytest.fixture
def calibrated(llama_folder: Path, examples: list[Example], tmp_path: Path):
    """A private calibration's folder, from the command line."""
    data, out = tmp_path / "rows.jsonl", tmp_path / "toy"
    data.write_text("\n".join(json.dumps(vars(example)) for example in examples))

    def calibrated(**more: object) -> Path:
        options = {"model": llama_folder, "data": data, "out": out, "epsilon": 8, "delta": 1e-4}
        options |= {"rounds": 2, "local-steps": 2, **more}
        assert calibrate([f"--{name}={value}" for name, value in options.items()]) == 0
        return out

    return calibrated


def test_a_private_calibration_measures_nothing_on_its_rows_and_fits_to_all(
    calibrated, capsys: pytest.CaptureFixture
) -> None:
    record = load_artifact(calibrated(**{"held-out": 0.25})).spec.calibration
    assert (record.metrics, record.client_sizes) == ({"held_out": 0.0}, (12,))
    assert "name a file of them with --held-out-data" in " ".join(capsys.readouterr().out.split())


def test_a_private_calibration_measures_on_public_rows(
    calibrated, examples: list[Example], tmp_path: Path
) -> None:
    public = tmp_path / "public.jsonl"
    public.write_text(json.dumps(vars(examples[0])))
    metrics = load_artifact(calibrated(**{"held-out-data": public})).spec.calibration.metrics
    assert metrics["held_out"] == 1.0 and "adapted_accuracy" in metrics


def test_a_private_calibration_records_its_budget_and_no_losses(calibrated) -> None:
    out = calibrated()
    recorded = load_artifact(out).spec.calibration.settings
    assert (recorded["epsilon"], recorded["delta"]) == (8.0, 1e-4)
    report = (out / "report" / "report.md").read_text()
    assert "Withheld by the clients for privacy" in report and "loss.png" not in report
    assert not (out / "report" / "loss.png").exists()


@pytest.mark.parametrize(
    ("choice", "rung", "spent"),
    [
        ({"fit": "head"}, "head", "1 x sums of rows, 8 x gradient of the readout"),
        ({"readout": "bias"}, "bias", "1 x sums of rows, 8 x gradient of the readout"),
        (
            {"fit": "coefficients", "readout": "head"},
            "coefficients+head",
            "1 x context vector, 4 x local step, 1 x sums of rows, 8 x gradient of the readout",
        ),
    ],
)
def test_a_private_readout_is_calibrated_and_says_what_it_spent(
    calibrated, examples: list[Example], tmp_path: Path, choice, rung: str, spent: str
) -> None:
    public = tmp_path / "public.jsonl"
    public.write_text("\n".join(json.dumps(vars(example)) for example in examples[:4]))
    out = calibrated(**choice, **{"held-out-data": public})
    artifact = load_artifact(out)
    assert artifact.spec.rung == rung
    assert all(torch.isfinite(tensor).all() for tensor in artifact.tensors.values())
    record = artifact.spec.calibration
    assert record.settings["epsilon_spent_on"] == spent
    assert spent in (out / "report" / "report.md").read_text()
    assert record.rungs == () and record.metrics["held_out"] == 4.0
    assert record.wire_bytes["readouts_per_client_up"] > 0
