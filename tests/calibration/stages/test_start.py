"""Beginning at the nearest task of a folder."""

import dataclasses
from pathlib import Path

import pytest
import torch

from calibration.data.examples import Example
from calibration.data.rows import Rows
from calibration.model.hooked import HookedModel
from calibration.model.sites import first_values, site_tensors, values_of
from calibration.run.local import Job, calibrate_here
from calibration.run.progress import Progress
from calibration.settings import SITE_FITS, Settings
from calibration.stages.start import EMPTY, Shelf
from calibration.state import StateStore
from calibration.task import TaskDefinition
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import DataError
from tests.ifedicl_serve.factory import MODEL, make_artifact

SETTINGS = Settings(
    layers=(1, 2), fit="channels", readout="none", rounds=2, local_steps=10, batch_size=8
)


@pytest.fixture
def job(
    llama: HookedModel, llama_folder: Path, task: TaskDefinition, examples: list[Example]
) -> Job:
    identity = ModelIdentity.of(str(llama_folder))
    return Job(llama, identity, task, [Rows(examples[:9], examples[9:])], [], SETTINGS)


def run(job: Job, folder: Path):
    store = StateStore(folder.parent / f".{folder.name}.state", job.fingerprint())
    return calibrate_here(job, folder, store, Progress())


def test_an_empty_shelf_has_no_nearest():
    assert EMPTY.nearest("channels", torch.randn(3, 2, 8), SETTINGS) is None


@pytest.mark.parametrize("fit", SITE_FITS)
def test_values_come_back_from_the_artifact_they_went_into(fit):
    vector = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    values = first_values(fit, vector, SETTINGS) + 0.1
    again = values_of(fit, vector, site_tensors(fit, vector, values))
    torch.testing.assert_close(again, values)


def test_the_nearest_is_the_one_whose_vector_points_the_same_way(tmp_path):
    made = [make_artifact(tmp_path / name, seed, name=name) for seed, name in enumerate("abc")]
    shelf = Shelf.read(tmp_path, MODEL)
    assert shelf.digests == [artifact.digest for artifact in made]
    settings = dataclasses.replace(SETTINGS, layers=(2, 3))
    start = shelf.nearest("coefficients", 3 * made[1].context_vector, settings)
    assert (start.task, start.cosine) == ("b", pytest.approx(1))
    assert torch.equal(start.values, made[1].coefficients)


def test_sites_that_the_new_task_does_not_adapt_stay_untouched(tmp_path):
    made = make_artifact(tmp_path / "a", name="a")
    settings = dataclasses.replace(SETTINGS, layers=(3,))
    start = Shelf.read(tmp_path, MODEL).nearest("channels", made.context_vector, settings)
    untouched = first_values("channels", made.context_vector, settings)
    assert torch.equal(start.values[:3], untouched[:3])
    assert not torch.equal(start.values[3], untouched[3])


def test_a_fit_begins_where_the_held_out_loss_is_lower(job: Job, tmp_path: Path):
    """At a task of the same rows; at one that was driven the other way it does not."""
    slow = dataclasses.replace(SETTINGS, channel_learning_rate=0.001)
    longer = dataclasses.replace(slow, rounds=4, channel_learning_rate=0.03)
    before = run(dataclasses.replace(job, settings=longer), tmp_path / "tasks" / "before")
    shelf = Shelf.read(tmp_path / "tasks" / "before", job.identity)
    warm = run(dataclasses.replace(job, settings=slow, shelf=shelf), tmp_path / "warm")
    cold = run(dataclasses.replace(job, settings=slow), tmp_path / "cold")
    said = warm.done.state.starts["channels"]
    assert said["task"] == before.artifact.spec.name
    assert said["cosine"] == pytest.approx(1, abs=1e-3)
    assert said["taken"] == (said["loss"] < said["loss_afresh"])
    first = {name: one.done.state.values["channels"][0] for name, one in
             (("warm", warm), ("cold", cold))}  # fmt: skip
    assert torch.equal(first["warm"], first["cold"]) == (not said["taken"])
    recorded = warm.artifact.spec.calibration.settings.get("channels_from")
    assert recorded == (said["task"] if said["taken"] else None)
    assert cold.done.state.starts == {}


def test_a_folder_without_a_task_to_start_from_is_refused(tmp_path):
    with pytest.raises(DataError, match="no task to start from .none is fitted at the sites"):
        Shelf.read(tmp_path, MODEL)
    other = MODEL.model_copy(update={"weights_digest": "f" * 64})
    make_artifact(tmp_path / "a")
    with pytest.raises(DataError, match="no task to start from .*calibrated on another model"):
        Shelf.read(tmp_path, other)
