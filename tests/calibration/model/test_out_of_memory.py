"""A GPU that has too little memory, played by a hook: what is said of it."""

from contextlib import contextmanager

import pytest
import torch

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.model.load import open_model
from calibration.model.score import label_log_probs
from calibration.settings import Machine, Settings
from calibration.stages.fit import fit_round
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import initial_coefficients
from ifedicl_serve.errors import ModelError

TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of "
    "which 1.06 GiB is free. Process 7 has 22.57 GiB memory in use. Of the allocated memory "
    "20.00 GiB is allocated by PyTorch. If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
SEEN = (
    "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.06 GiB is free;"
)


@contextmanager
def too_large(model: HookedModel, backward: bool = False):
    """The last layer finds no memory."""

    def refuse(*_):
        raise torch.cuda.OutOfMemoryError(TOLD)

    def refuse_gradient(_module, _inputs, output):
        output.register_hook(refuse)

    layer = model.layers[-1]
    handle = layer.register_forward_hook(refuse_gradient if backward else refuse)
    try:
        yield
    finally:
        handle.remove()


def fit(model: HookedModel, task: TaskDefinition, examples: list[Example], batch_size: int) -> None:
    settings = Settings(layers=(0, 1, 2), batch_size=batch_size)
    start = initial_coefficients(3, settings.layers, settings.sites)
    vector = torch.ones(3, 2, 64)
    fit_round(model, task, examples, "coefficients", vector, start, settings, 0, 0)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("checkpointing", "batch_size", "less"),
    [
        (False, 4, "without checkpointing; give --checkpointing on, or a lower --max-batch-tokens"),
        (True, 4, "with checkpointing; give a lower --max-batch-tokens"),
        (True, 1, "with checkpointing; shorten texts, or give --dtype bf16, --device-map auto or"),
    ],
)
def test_fitting_says_what_was_asked_what_there_was_and_what_asks_for_less(
    llama: HookedModel,
    task: TaskDefinition,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
    backward: bool,
    checkpointing: bool,
    batch_size: int,
    less: str,
) -> None:
    monkeypatch.setattr(llama, "checkpointing", checkpointing)
    with too_large(llama, backward), pytest.raises(ModelError) as refused:
        fit(llama, task, examples, batch_size)
    message = str(refused.value)
    assert SEEN in message and less in message and "PYTORCH_ALLOC_CONF" not in message
    assert f"; {batch_size} sequences padded to " in message
    assert "at once, under --max-batch-tokens 4096" in message


def test_reading_rows_says_so_too(llama: HookedModel, task: TaskDefinition) -> None:
    with too_large(llama), pytest.raises(ModelError) as refused:
        prompts = [task.prompt.render(text) for text in ("one text", "another")]
        label_log_probs(llama, prompts, task.trie(llama.tokenizer))
    assert str(refused.value).endswith("--max-batch-tokens 4096; give a lower --max-batch-tokens")


def test_a_model_that_does_not_fit_says_how_large_it_is(
    llama_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_, **__):
        raise torch.cuda.OutOfMemoryError(TOLD)

    monkeypatch.setattr("transformers.LlamaForCausalLM.to", refuse)
    with pytest.raises(ModelError, match="2 MiB of weights were asked for; give --dtype bf16"):
        open_model(str(llama_folder), Machine())
