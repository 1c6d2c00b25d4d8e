"""Tiny random models and a toy task; nothing here knows language."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.model.load import load_model
from calibration.task import TaskDefinition
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import Label

TINY_QWEN2 = Path(__file__).parents[2] / "examples" / "tiny_qwen2"
SHAPE = {
    "vocab_size": 8000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,  # large, so that label probabilities differ
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """As the commands do for narrow models; equal bits need equal threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA checkpoint with the tiny Qwen2 model's tokenizer."""
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    return save_with_tokenizer(network, tmp_path_factory.mktemp("models") / "tiny_llama")


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 checkpoint, untied."""
    torch.manual_seed(1)
    network = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=False))
    return save_with_tokenizer(network, tmp_path_factory.mktemp("models") / "tiny_qwen3")


def save_with_tokenizer(network, folder: Path) -> Path:
    network.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_QWEN2 / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> HookedModel:
    return load_model(str(llama_folder))


@pytest.fixture(scope="session")
def qwen2() -> HookedModel:
    return load_model(str(TINY_QWEN2))


@pytest.fixture(scope="session")
def qwen3(qwen3_folder: Path) -> HookedModel:
    return load_model(str(qwen3_folder))


@pytest.fixture
def task() -> TaskDefinition:
    """Labels of several tokens, two sharing a prefix, one a prefix of another."""
    names = ("water", "water bill", "energy", "energy from the sun")
    return TaskDefinition(
        "toy",
        PromptTemplate.of("Text: {text}\nLabel:"),
        tuple(Label(name=name, verbalization=name) for name in names),
    )


@pytest.fixture
def examples(task: TaskDefinition) -> list[Example]:
    """Twelve texts of different lengths, three per label."""
    return [
        Example(f"number {row} " + "and so on " * (row % 5), task.names[row % len(task.names)])
        for row in range(12)
    ]


@pytest.fixture
def hook_count(llama: HookedModel):
    """How many forward hooks the LLaMA model carries now."""

    def count() -> int:
        return sum(len(module._forward_hooks) for module in llama.network.modules())

    return count
