"""Artifacts that come, fail and return under a running engine, with the prefix cache on."""

import shutil

import numpy as np
import pytest

from bench.common.random_tasks import random_task
from ifedicl_serve.contract.artifact import VECTORS_FILE
from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest
from tests.engine.conftest import engine, random_prompts, request, run, scores

CHOICES = (300, 301, 302, 303, 304)
# float32 matrix products round differently in a batch of another size; nothing else may differ.
TOLERANCE = 1e-5
PROMPT = random_prompts(1, low=200, high=201)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def llm(models, folder):
    """An engine that started with an empty folder."""
    with engine(
        models["llama"], folder, enable_prefix_caching=True, max_num_batched_tokens=64
    ) as llm:
        yield llm


def of_generation(digest, generation):
    asked = TaskRequest(TaskKey(digest, generation), (AskedReadout(CHOICES),))
    return {"prompt_token_ids": PROMPT}, asked


def score(llm, digest, generation=""):
    return scores(llm, [of_generation(digest, generation)])[0]


def test_an_artifact_dropped_in_is_served(llm, models, folder):
    one = random_task(models["llama"], folder / "one", seed=1).digest
    first = score(llm, one)
    two = random_task(models["llama"], folder / "two", seed=2).digest
    second = score(llm, two)
    assert np.isfinite([first, second]).all()
    assert not np.allclose(first, second, atol=0.01)


def test_a_replaced_artifact_is_another_task_and_the_old_one_serves_while_it_is_resident(
    llm, models, folder
):
    old = random_task(models["llama"], folder / "replaced", seed=3).digest
    before = score(llm, old)
    new = random_task(models["llama"], folder / "replaced", seed=4).digest
    llm.reset_prefix_cache()
    requests = [request(PROMPT, digest, CHOICES) for digest in (new, old)]
    after, still = scores(llm, requests)
    np.testing.assert_allclose(still, before, atol=TOLERANCE)
    assert not np.allclose(after, before, atol=0.01)
    assert run(llm, requests[:1])[0].num_cached_tokens == 192  # its own: 6 full blocks of 32
    np.testing.assert_allclose(scores(llm, requests[:1])[0], after, atol=TOLERANCE)


def test_an_artifact_removed_before_it_was_loaded_fails_alone(llm, models, folder):
    kept = random_task(models["llama"], folder / "kept", seed=5).digest
    gone = random_task(models["llama"], folder / "gone", seed=6).digest
    shutil.rmtree(folder / "gone")
    answered, missing = scores(llm, [request(PROMPT, digest, CHOICES) for digest in (kept, gone)])
    assert np.isfinite(answered).all()
    assert np.isnan(missing).all()


@pytest.mark.parametrize("damage", ["absent", "half-written"])
def test_an_artifact_that_failed_is_served_as_its_next_generation(llm, models, folder, damage):
    """And meets none of the unadapted KV that its failure left in the cache."""
    name = f"returns-{damage}"
    digest = random_task(models["llama"], folder / name, seed=7).digest
    vectors = (folder / name / VECTORS_FILE).read_bytes()
    if damage == "absent":
        (folder / name).rename(folder / f".{name}")
    else:
        (folder / name / VECTORS_FILE).write_bytes(vectors[:1000])
    assert np.isnan(score(llm, digest, "1")).all()
    if damage == "absent":
        (folder / f".{name}").rename(folder / name)
    else:
        (folder / name / VECTORS_FILE).write_bytes(vectors)
    assert np.isnan(score(llm, digest, "1")).all()
    (output,) = run(llm, [of_generation(digest, "2")])
    assert output.num_cached_tokens == 0
    llm.reset_prefix_cache()
    expected = score(llm, random_task(models["llama"], folder / f"same-{damage}", seed=7).digest)
    np.testing.assert_allclose(output.outputs.data.numpy(), expected, atol=TOLERANCE)
    assert np.isnan(score(llm, digest, "1")).all()
