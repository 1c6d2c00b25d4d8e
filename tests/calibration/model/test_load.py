"""Which dtype and device a model is loaded with, spread by accelerate or not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model

from calibration.model import load
from calibration.model.hooked import HookedModel, Noise, injected
from calibration.model.load import chosen_dtype, load_model, open_model
from calibration.model.memory import Footprint, readable
from calibration.settings import Machine
from ifedicl_serve.contract.injection import Injection
from ifedicl_serve.errors import DataError, ModelError

SEQUENCES = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]


@pytest.mark.parametrize(
    ("own", "asked", "device", "chosen"),
    [
        (torch.bfloat16, "auto", "cuda", torch.bfloat16),
        (torch.float32, "auto", "cuda", torch.float32),
        (torch.float16, "auto", "cuda", torch.bfloat16),  # small gradients would become 0
        (None, "auto", "cuda:1", torch.float32),
        (torch.bfloat16, "auto", "cpu", torch.float32),
        (torch.bfloat16, "fp32", "cuda", torch.float32),
        (torch.float32, "bf16", "cpu", torch.bfloat16),
    ],
)
def test_auto_is_the_checkpoints_own_on_a_gpu_and_float32_on_a_cpu(own, asked, device, chosen):
    assert chosen_dtype(SimpleNamespace(dtype=own), asked, device) == chosen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp8"}, r"dtype 'fp8' is unknown \(known: auto, fp32, bf16\)"),
        ({"checkpointing": "maybe"}, "checkpointing 'maybe' is unknown"),
        ({"max_batch_tokens": 0}, "max batch tokens is 0, expected at least 1"),
        ({"device": "cpu", "device_map": "auto"}, "device cpu and device map auto contradict"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Machine(**options)


def test_a_model_spread_by_accelerate_says_the_same(llama: HookedModel, llama_folder: Path) -> None:
    spread = load_model(str(llama_folder), device_map="auto")
    assert torch.equal(spread.hidden(SEQUENCES), llama.hidden(SEQUENCES))


def test_layers_with_accelerates_hooks_are_adapted_and_keep_them(
    llama: HookedModel, llama_folder: Path
) -> None:
    """Of every module, as where each lies on a device of its own."""
    model = load_model(str(llama_folder))
    places = {
        name: "cpu" for name, module in model.network.named_modules() if not [*module.children()]
    }
    dispatch_model(model.network, places, force_hooks=True)
    assert torch.equal(model.hidden(SEQUENCES), llama.hidden(SEQUENCES))
    logits = [one.logits(one.hidden(SEQUENCES), [3, 4]) for one in (model, llama)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["one task", "one an example"])
def test_injections_masks_and_noise_move_to_the_layers_device(batch) -> None:
    """The layer's is "meta" here, where a tensor of another device would be an error."""
    layer = torch.nn.ModuleDict({"self_attn": torch.nn.Identity(), "mlp": torch.nn.Identity()})
    model = SimpleNamespace(
        device=torch.device("cpu"), layers=[layer], in_tail=torch.ones(2, 5, 1, dtype=torch.bool)
    )
    injection = Injection(torch.ones(*batch, 1, 2, 1), torch.zeros(*batch, 1, 2, 8))
    noise, everywhere = Noise(0.1, torch.Generator()), torch.ones(1, 2, dtype=torch.bool)
    with injected(model, injection, everywhere, "tail", noise):
        for site in layer.values():
            assert site(torch.empty(2, 5, 8, device="meta")).device.type == "meta"


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(llama_folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device {device} is not there .* GPUs are"):
        open_model(str(llama_folder), Machine(device=device))


@pytest.mark.parametrize("places", [{"model": 0, "lm_head": "cpu"}, {"": "disk"}])
def test_a_model_that_does_not_fit_on_the_gpus_is_refused(places) -> None:
    with pytest.raises(ModelError, match="does not fit on the GPUs.*give --dtype bf16, or more"):
        load._refuse_offloaded("a model", places)


@pytest.mark.parametrize(
    ("free", "asked", "checkpointing"),
    [(1 << 40, "auto", False), (0, "auto", True), (0, "off", False), (1 << 40, "on", True)],
)
def test_what_it_takes_is_told_first_and_decides_about_checkpointing(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, free, asked, checkpointing
) -> None:
    monkeypatch.setattr(load, "available", lambda device, spread: free)
    told: list[str] = []
    machine = Machine(max_batch_tokens=100, checkpointing=asked)
    model = open_model(str(llama_folder), machine, told.append)
    assert (model.max_batch_tokens, model.checkpointing) == (100, checkpointing)
    footprint = Footprint.of(model.network.config, torch.float32)
    (line,) = told
    assert f"{readable(footprint.weights)} of weights (float32)" in line
    assert ("checkpointed" in line) == checkpointing and f"{readable(free)} are free" in line
