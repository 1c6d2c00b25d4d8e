"""Which base model a task belongs to: what counts, what does not, what is missing."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ifedicl_serve.contract.identity import VOLATILE_KEYS, ModelIdentity
from ifedicl_serve.errors import ModelError

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rope_theta": 1e4}
TOKENIZER = {"version": "1.0", "model": {"vocab": {"a": 0, "b": 1}}}


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint without weights and returns its identity."""

    def write(config=None, tokenizer=None, folder="base"):
        (tmp_path / folder).mkdir(exist_ok=True)
        config = CONFIG | (config or {})
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
        (tmp_path / folder / "tokenizer.json").write_text(json.dumps(tokenizer or TOKENIZER))
        return ModelIdentity.of(str(tmp_path / folder))

    return write


def test_a_checkpoint_is_named_by_its_folder(checkpoint):
    identity = checkpoint(folder="base-7b")
    assert (identity.name, identity.architecture) == ("base-7b", "LlamaForCausalLM")


def test_the_folder_one_stands_in_has_a_name_too(checkpoint, tmp_path, monkeypatch):
    checkpoint()
    monkeypatch.chdir(tmp_path / "base")
    assert ModelIdentity.of(".").name == "base"


@pytest.mark.parametrize("key", sorted(VOLATILE_KEYS))
def test_how_a_checkpoint_was_saved_does_not_matter(checkpoint, key):
    assert checkpoint({key: "anything"}) == checkpoint()


def test_the_order_of_keys_does_not_matter(checkpoint, tmp_path):
    before = checkpoint()
    for name, value in (("config.json", CONFIG), ("tokenizer.json", TOKENIZER)):
        backwards = dict(reversed(value.items()))
        (tmp_path / "base" / name).write_text(json.dumps(backwards, indent=4))
    assert ModelIdentity.of(str(tmp_path / "base")) == before


def test_the_folder_name_does_not_matter(checkpoint):
    assert checkpoint().mismatch(checkpoint(folder="copy")) is None


@pytest.mark.parametrize("change", [{"hidden_size": 65}, {"rope_theta": 1e6}, {"new_key": None}])
def test_what_the_config_computes_matters(checkpoint, change):
    mine, theirs = checkpoint(), checkpoint(change, folder="other")
    assert mine.mismatch(theirs) == (
        f"config digest {mine.config_digest[:16]} of 'base', not {theirs.config_digest[:16]} of "
        "'other'"
    )


def test_the_tokenizer_matters(checkpoint):
    mine = checkpoint()
    theirs = checkpoint(tokenizer={"model": {"vocab": {"a": 1, "b": 0}}}, folder="other")
    assert mine.config_digest == theirs.config_digest
    assert mine.mismatch(theirs).startswith("tokenizer digest ")


def test_the_architecture_matters(checkpoint):
    theirs = checkpoint({"architectures": ["Qwen2ForCausalLM"]}, folder="other")
    assert checkpoint().mismatch(theirs) == (
        "architecture LlamaForCausalLM of 'base', not Qwen2ForCausalLM of 'other'"
    )


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_tokenizers_of_other_formats_are_read(checkpoint, tmp_path, name):
    checkpoint()
    (tmp_path / "base" / "tokenizer.json").rename(tmp_path / "base" / name)
    before = ModelIdentity.of(str(tmp_path / "base"))
    (tmp_path / "base" / name).write_text('{"c": 2}')
    assert ModelIdentity.of(str(tmp_path / "base")).tokenizer_digest != before.tokenizer_digest


def test_a_checkpoint_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError) as caught:
        ModelIdentity.of(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} has no config.json; expected a Hugging Face checkpoint folder or hub name"
    )


def test_a_checkpoint_without_tokenizer_is_refused(checkpoint, tmp_path):
    checkpoint()
    (tmp_path / "base" / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as caught:
        ModelIdentity.of(str(tmp_path / "base"))
    assert str(caught.value) == (
        f"{tmp_path / 'base'} has none of tokenizer.json, tokenizer.model, vocab.json; save its "
        "tokenizer beside it"
    )


@pytest.mark.parametrize("value", [[], None])
def test_a_config_that_names_no_architecture_is_refused(checkpoint, value):
    with pytest.raises(ModelError, match="names no architecture; save it with transformers"):
        checkpoint({"architectures": value})


@pytest.mark.parametrize(
    ("name", "raw"),
    [("config.json", "{"), ("config.json", "[]"), ("tokenizer.json", "")],
)
def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path, name, raw):
    checkpoint()
    (tmp_path / "base" / name).write_text(raw)
    with pytest.raises(ModelError, match=f"{name} is not a JSON object"):
        ModelIdentity.of(str(tmp_path / "base"))


def save_weights(folder, norm, matrix, name="model.safetensors"):
    save_file({"norm": torch.tensor(norm), "matrix": torch.tensor(matrix)}, folder / name)


def test_the_default_device_does_not_matter(checkpoint, tmp_path):
    """A GPU's worker reads it while the GPU is the default; "meta" is the other device here."""
    checkpoint()
    save_weights(tmp_path / "base", [1.0, 2.0], [[3.0], [4.0]])
    before = ModelIdentity.of(str(tmp_path / "base"))
    with torch.device("meta"):
        assert ModelIdentity.of(str(tmp_path / "base")) == before


def test_retrained_weights_of_the_same_shape_are_another_model(checkpoint, tmp_path):
    checkpoint()
    save_weights(tmp_path / "base", [1.0, 1.0], [[1.0, 2.0]])
    before = ModelIdentity.of(str(tmp_path / "base"))
    save_weights(tmp_path / "base", [1.0, 1.01], [[1.0, 2.0]])
    assert "weights digest" in before.mismatch(ModelIdentity.of(str(tmp_path / "base")))


def test_a_single_number_among_the_weights_matters(checkpoint, tmp_path):
    """As the scales of some quantised checkpoints are."""
    checkpoint()
    save_weights(tmp_path / "base", 1.0, [[1.0, 2.0]])
    before = ModelIdentity.of(str(tmp_path / "base"))
    save_weights(tmp_path / "base", 1.5, [[1.0, 2.0]])
    assert "weights digest" in before.mismatch(ModelIdentity.of(str(tmp_path / "base")))


def test_the_same_weights_in_shards_are_the_same_model(checkpoint, tmp_path):
    checkpoint()
    checkpoint(folder="shards")
    save_weights(tmp_path / "base", [1.0, 1.5], [[1.0, 2.0]])
    save_file({"norm": torch.tensor([1.0, 1.5])}, tmp_path / "shards" / "a.safetensors")
    save_file({"matrix": torch.tensor([[1.0, 2.0]])}, tmp_path / "shards" / "b.safetensors")
    index = {"weight_map": {"norm": "a.safetensors", "matrix": "b.safetensors"}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    whole, shards = (ModelIdentity.of(str(tmp_path / name)) for name in ("base", "shards"))
    assert whole.mismatch(shards) is None


def test_damaged_weights_are_refused(checkpoint, tmp_path):
    checkpoint()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match="not a safetensors file"):
        ModelIdentity.of(str(tmp_path / "base"))


def test_a_merged_lora_is_another_model(checkpoint, tmp_path):
    checkpoint()
    save_weights(tmp_path / "base", [1.0, 1.0], [[1.0, 2.0]])
    before = ModelIdentity.of(str(tmp_path / "base"))
    save_weights(tmp_path / "base", [1.0, 1.0], [[1.0, 2.01]])
    assert "weights digest" in before.mismatch(ModelIdentity.of(str(tmp_path / "base")))
