"""A worker that trusts one key takes no unsigned task, whoever asks for it."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.common.random_tasks import random_task
from ifedicl_serve.contract.signing import write_signature
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest
from tests.engine.conftest import engine, random_prompts, scores
from tests.ifedicl_serve.keys import trusting

(PROMPT,) = random_prompts(1)


@pytest.fixture(scope="module")
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def tasks(models, key, tmp_path_factory):
    """Where the worker looks, with a signed task and one that is not, and their digests."""
    folder = tmp_path_factory.mktemp("tasks")
    digests = [
        random_task(models["llama"], folder / name, seed).digest
        for seed, name in enumerate(("signed", "unsigned"))
    ]
    write_signature(folder / "signed", digests[0], key)
    return folder, digests


@pytest.fixture(scope="module")
def llm(models, tasks, key):
    trusting_worker = TaskConfig(tasks[0], trusted=trusting(key))
    with engine(models["llama"], tasks[0], additional_config=trusting_worker) as llm:
        yield llm


def test_only_the_signed_task_serves_until_the_other_is_signed(llm, tasks, key):
    folder, digests = tasks

    def answers(generation=""):
        readouts = (AskedReadout((300, 301)),)
        asked = [TaskRequest(TaskKey(digest, generation), readouts) for digest in digests]
        return scores(llm, [({"prompt_token_ids": PROMPT}, one) for one in asked])

    signed, unsigned = answers()
    assert np.isfinite(signed).all()
    assert np.isnan(unsigned).all()
    write_signature(folder / "unsigned", digests[1], key)
    again, now_signed = answers(generation="1")
    np.testing.assert_allclose(again, signed, atol=1e-5)
    assert np.isfinite(now_signed).all()
