"""Which base model a task belongs to: what counts, what does not, what is missing.

Of weights and tokenizer: tests/ifedicl_serve/checkpoint.
"""

import json
from pathlib import Path

import pytest

from ifedicl_serve.checkpoint.tokenizer import load_tokenizer
from ifedicl_serve.contract.identity import VOLATILE_KEYS, ModelIdentity, architecture_of
from ifedicl_serve.errors import ModelError
from tests.ifedicl_serve.checkpoints import CONFIG, save_tokenizer, save_weights


@pytest.fixture
def identity(checkpoint):
    """Of a checkpoint that is written before."""

    def identity(config=None, folder="base"):
        return ModelIdentity.of(checkpoint(folder, config))

    return identity


def test_a_checkpoint_is_named_by_its_folder(identity):
    seen = identity(folder="base-7b")
    assert (seen.name, seen.architecture, seen.version) == ("base-7b", "LlamaForCausalLM", 2)


def test_the_folder_one_stands_in_has_a_name_too(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint())
    assert ModelIdentity.of(".").name == "base"


@pytest.mark.parametrize("key", sorted(VOLATILE_KEYS))
def test_how_a_checkpoint_was_saved_does_not_matter(identity, key):
    assert identity({key: "float16"}) == identity()


def test_the_order_of_keys_does_not_matter(identity, tmp_path):
    before = identity()
    (tmp_path / "base" / "config.json").write_text(json.dumps(dict(reversed(CONFIG.items()))))
    assert ModelIdentity.of(str(tmp_path / "base")) == before


def test_the_folder_name_does_not_matter(identity):
    assert identity().mismatch(identity(folder="copy")) is None


@pytest.mark.parametrize("change", [{"hidden_size": 65}, {"rope_theta": 1e6}, {"new_key": None}])
def test_what_the_config_computes_matters(identity, change):
    mine, theirs = identity(), identity(change, folder="other")
    assert mine.mismatch(theirs) == (
        f"config digest {mine.config_digest[:16]} of 'base', not {theirs.config_digest[:16]} of "
        "'other'"
    )


def test_the_tokenizer_matters(identity, checkpoint):
    mine, other = identity(), checkpoint("other")
    save_tokenizer(Path(other), {"[UNK]": 0, "</s>": 1})
    theirs = ModelIdentity.of(other)
    assert mine.config_digest == theirs.config_digest
    assert mine.mismatch(theirs).startswith("tokenizer digest ")


def test_the_weights_matter(checkpoint):
    mine, other = checkpoint(weights="model.safetensors"), checkpoint("other")
    save_weights(Path(other) / "model.safetensors", norm=[1.0, 1.01])
    mismatch = ModelIdentity.of(mine).mismatch(ModelIdentity.of(other))
    assert mismatch.startswith("weights digest ")


def test_the_architecture_matters(identity):
    theirs = identity({"architectures": ["Qwen2ForCausalLM"]}, folder="other")
    assert identity().mismatch(theirs) == (
        "architecture LlamaForCausalLM of 'base', not Qwen2ForCausalLM of 'other'"
    )


def test_the_release_that_made_it_matters(identity):
    older = identity().model_copy(update={"version": 1})
    assert older.mismatch(identity()) == "version 1 of 'base', not 2 of 'base'"


def test_an_engine_with_another_tokenizer_is_refused(checkpoint):
    """As by an environment variable that we do not know of."""
    model, other = checkpoint(), checkpoint("other")
    save_tokenizer(Path(other), {"[UNK]": 0, "</s>": 1})
    identity = ModelIdentity.of(model)
    identity.refuse_other_tokenizer(load_tokenizer(model))
    with pytest.raises(ModelError, match="another tokenizer .TokenizersBackend, digest .* 'base'"):
        identity.refuse_other_tokenizer(load_tokenizer(other))


def test_a_checkpoint_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError) as caught:
        ModelIdentity.of(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} has no config.json; expected a Hugging Face checkpoint folder or hub name"
    )


@pytest.mark.parametrize("value", [[], None])
def test_a_config_that_names_no_architecture_is_refused(checkpoint, value):
    model = checkpoint(config={"architectures": value})
    with pytest.raises(ModelError, match="names no architecture; save it with transformers"):
        architecture_of(model)


@pytest.mark.parametrize("raw", ["{", "[]"])
def test_a_damaged_config_is_refused(checkpoint, raw):
    model = checkpoint()
    (Path(model) / "config.json").write_text(raw)
    with pytest.raises(ModelError, match="config.json is not a JSON object"):
        ModelIdentity.of(model)
