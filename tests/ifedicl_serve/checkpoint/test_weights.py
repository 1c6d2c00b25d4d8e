"""Which files hold a checkpoint's weights, what of them counts, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM

from ifedicl_serve.checkpoint.weights import weight_files, weights_digest
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import ModelError
from tests.ifedicl_serve.checkpoints import save_index, save_weights


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Lays a checkpoint out as downloaded from the hub under some/model; `hub` is Hugging Face's
    own cache. Offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def hub_cache(name, folder):
        snapshot = tmp_path / name / "models--some--model" / "snapshots" / "c0ffee"
        shutil.copytree(folder, snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("c0ffee")
        return snapshot

    return hub_cache


def refused(model):
    with pytest.raises(ModelError) as error:
        weights_digest(model)
    return str(error.value)


def test_case_1_pickled_weights_are_refused_with_the_command_that_converts_them(checkpoint):
    """Two fine-tunes in pytorch_model.bin had one digest, that of nothing."""
    model = checkpoint()
    torch.save({"norm": torch.ones(2)}, Path(model) / "pytorch_model.bin")
    message = refused(model)
    assert message.startswith(f"{model}: its weights are pickled (pytorch_model.bin)")
    assert f"M.from_pretrained('{model}').save_pretrained('{model}')" in message


def test_the_command_that_converts_pickled_weights_does(tmp_path):
    folder = tmp_path / "pickled"
    shape = dict(hidden_size=8, intermediate_size=8, num_attention_heads=1, num_hidden_layers=1)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=8, **shape))
    network.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    _, _, command = refused(str(folder)).partition("python -c ")
    exec(command.strip('"'), {})
    assert weight_files(str(folder)) == {"model.safetensors"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "consolidated.00.pth"])
def test_pickles_beside_safetensors_are_loaded_by_nobody(checkpoint, name):
    model = checkpoint(weights="model.safetensors")
    (Path(model) / name).write_bytes(b"")
    assert weight_files(model) == {"model.safetensors"}


def test_case_1_weights_that_only_transformers_finds_are_refused(checkpoint):
    """By a key of config.json."""
    model = checkpoint(config={"transformers_weights": "w.safetensors"}, weights="w.safetensors")
    assert refused(model) == (
        f"{model}/config.json: transformers_weights names 'w.safetensors', which vLLM does not "
        "know of; name the file model.safetensors and remove the key"
    )


def test_case_1_an_adapter_that_only_transformers_adds_is_refused(checkpoint):
    """A PEFT folder that holds its base model too."""
    model = checkpoint(weights="model.safetensors")
    (Path(model) / "adapter_config.json").write_text("{}")
    assert refused(model) == (
        f"{model}/adapter_config.json: transformers would add this adapter to the model, vLLM "
        "would not; merge it (PEFT's merge_and_unload), or remove the file"
    )


@pytest.mark.parametrize("name", ["consolidated.safetensors", "mistral/consolidated-1.safetensors"])
def test_case_3_mistrals_own_format_which_vllm_prefers_is_refused(checkpoint, name):
    """Wherever it lies: vLLM looks into sub-folders."""
    model = checkpoint(weights="model.safetensors")
    (Path(model) / "mistral").mkdir()
    save_weights(Path(model) / name)
    assert refused(model) == (
        f"{model}/{name}: vLLM would load this, with Mistral's own config and tokenizer, "
        "transformers the files of Hugging Face's format; remove it (from a local copy, if this is "
        "a hub name)"
    )


def test_case_2_a_file_beside_an_index_that_transformers_would_load_instead_is_refused(checkpoint):
    model = checkpoint()
    save_weights(Path(model) / "model-1.safetensors", matrix=None)
    save_weights(Path(model) / "model-2.safetensors", norm=None)
    save_index(Path(model), norm="model-1.safetensors", matrix="model-2.safetensors")
    assert weight_files(model) == {"model-1.safetensors", "model-2.safetensors"}
    save_weights(Path(model) / "model.safetensors", norm=[2.0, 2.0])
    assert refused(model) == (
        f"{model}: transformers, which calibrates, would load model.safetensors, vLLM "
        "model-1.safetensors, model-2.safetensors, which may differ; remove model.safetensors, or "
        "save the model anew with save_pretrained into an empty folder"
    )


def test_case_2_a_file_that_vllm_would_load_as_well_is_refused(checkpoint):
    model = checkpoint(weights="model.safetensors")
    save_weights(Path(model) / "more.safetensors")
    assert "remove more.safetensors, or save" in refused(model)


def test_weights_that_only_vllm_finds_are_refused(checkpoint):
    message = refused(checkpoint(weights="weights.safetensors"))
    assert "would load none, vLLM weights.safetensors" in message


def test_files_that_an_index_does_not_name_are_loaded_by_nobody(checkpoint):
    model = checkpoint(weights="model.safetensors")
    save_index(Path(model), norm="model.safetensors", matrix="model.safetensors")
    save_weights(Path(model) / "before.safetensors")
    assert weight_files(model) == {"model.safetensors"}


def test_a_shard_that_is_not_there_is_refused(checkpoint):
    model = checkpoint()
    save_weights(Path(model) / "model-1.safetensors", matrix=None)
    save_index(Path(model), norm="model-1.safetensors", matrix="model-2.safetensors")
    assert "model-2.safetensors: model.safetensors.index.json names this file" in refused(model)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_of_nothing_is_refused(checkpoint, content):
    model = checkpoint()
    (Path(model) / "model.safetensors.index.json").write_text(content)
    assert "has no weight_map; the file is damaged" in refused(model)


def test_a_checkpoint_without_weights_has_none(checkpoint):
    """As vLLM's --load-format dummy takes it."""
    assert weight_files(checkpoint()) == set()


def test_a_hub_model_is_looked_at_as_a_folder_is(checkpoint, hub_cache):
    """Offline, in what was downloaded of it."""
    shard = checkpoint(weights="model.safetensors")
    snapshot = hub_cache("hub", shard)
    assert weights_digest("some/model") == weights_digest(shard)
    save_weights(snapshot / "more.safetensors")
    assert "remove more.safetensors" in refused("some/model")


def test_weights_are_looked_for_where_vllms_download_dir_puts_them(checkpoint, hub_cache, tmp_path):
    """The weights alone: config and tokenizer are in Hugging Face's cache all the same."""
    whole = checkpoint(weights="model.safetensors")
    shards = checkpoint("shards")
    save_weights(Path(shards) / "a.safetensors", matrix=None)
    save_weights(Path(shards) / "b.safetensors", norm=None)
    save_index(Path(shards), norm="a.safetensors", matrix="b.safetensors")
    hub_cache("hub", checkpoint("bare"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (Path(shards) / name).unlink()
    hub_cache("elsewhere", shards)
    identity = ModelIdentity.of("some/model", download_dir=str(tmp_path / "elsewhere"))
    assert identity.mismatch(ModelIdentity.of(whole)) is None
    assert identity.mismatch(ModelIdentity.of("some/model")).startswith("weights digest ")
    with pytest.raises(ModelError, match="cannot find model 'some/model'"):
        ModelIdentity.of("some/model", download_dir=str(tmp_path / "nowhere"))


def test_the_default_device_does_not_matter(checkpoint):
    """A GPU's worker reads it while the GPU is the default; "meta" is the other device here."""
    model = checkpoint(weights="model.safetensors")
    before = weights_digest(model)
    with torch.device("meta"):
        assert weights_digest(model) == before


@pytest.mark.parametrize(
    "change", [{"norm": [1.0, 1.51]}, {"norm": 1.5}, {"matrix": [[1.0, 2.01]]}, {"more": [0.0]}]
)
def test_other_weights_are_another_model(checkpoint, change):
    """Retrained, with the single number that scales of quantised weights are, a merged LoRA."""
    model = checkpoint(weights="model.safetensors")
    before = weights_digest(model)
    save_weights(Path(model) / "model.safetensors", **change)
    assert weights_digest(model) != before


def test_the_same_weights_in_shards_are_the_same_model(checkpoint):
    whole, shards = checkpoint(weights="model.safetensors"), checkpoint("shards")
    save_weights(Path(shards) / "a.safetensors", matrix=None)
    save_weights(Path(shards) / "b.safetensors", norm=None)
    save_index(Path(shards), norm="a.safetensors", matrix="b.safetensors")
    assert weights_digest(whole) == weights_digest(shards)


def test_damaged_weights_are_refused(checkpoint):
    model = checkpoint()
    (Path(model) / "model.safetensors").write_bytes(b"no safetensors")
    assert "not a safetensors file" in refused(model)
