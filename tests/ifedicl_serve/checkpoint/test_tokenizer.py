"""What a tokenizer does to a text is what its digest is of, as far as files and class can say."""

import json
import shutil
from pathlib import Path

import pytest

from ifedicl_serve.checkpoint.tokenizer import TOKENIZER_FILES, load_tokenizer, tokenizer_digest
from ifedicl_serve.errors import ModelError
from tests.ifedicl_serve.checkpoints import save_tokenizer

BASE_MODEL = Path(__file__).parents[3] / "examples" / "base_model"


def digest(model):
    return tokenizer_digest(load_tokenizer(model))


def configure(model, **changes):
    path = Path(model) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_case_3_another_class_makes_other_tokens_of_equal_files(tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(BASE_MODEL / name, tmp_path / name)
    before = load_tokenizer(str(tmp_path))
    assert tokenizer_digest(before) == digest(str(BASE_MODEL))
    configure(tmp_path, tokenizer_class="LlamaTokenizer")
    after = load_tokenizer(str(tmp_path))
    assert after("Text: a\nTopic:").input_ids != before("Text: a\nTopic:").input_ids
    assert tokenizer_digest(after) != tokenizer_digest(before)


@pytest.mark.parametrize(
    "change",
    [
        {"chat_template": "{{ messages[0].content }}"},
        {"eos_token": "a"},
        {"additional_special_tokens": ["Text"]},
        {"split_special_tokens": True},
    ],
)
def test_settings_matter(checkpoint, change):
    model = checkpoint()
    before = digest(model)
    configure(model, **change)
    assert digest(model) != before


def test_a_chat_template_in_a_file_of_its_own_matters(checkpoint):
    model = checkpoint()
    before = digest(model)
    (Path(model) / "chat_template.jinja").write_text("{{ messages }}")
    assert digest(model) != before


def test_the_vocabulary_matters(checkpoint):
    model = checkpoint()
    before = digest(model)
    save_tokenizer(Path(model), {"[UNK]": 0, "</s>": 1, "a": 2, "Text": 3})
    assert digest(model) != before


def test_the_order_of_keys_and_how_a_folder_was_saved_do_not_matter(checkpoint, tmp_path):
    model = checkpoint()
    before = digest(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = Path(model) / name
        backwards = dict(reversed(json.loads(path.read_text()).items()))
        path.write_text(json.dumps(backwards, indent=4))
    configure(model, name_or_path="elsewhere", is_local=True)
    assert digest(model) == before


def test_how_it_is_used_and_what_only_caches_it_do_not_matter(checkpoint):
    """vLLM's is of a subclass that was made on the spot; calls set the cut and the padding."""
    tokenizer = load_tokenizer(checkpoint())
    tokenizer.pad_token = "</s>"
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "a a a"], truncation=True, max_length=2, padding="max_length")
    assert tokenizer.backend_tokenizer.truncation and tokenizer.backend_tokenizer.padding
    tokenizer.__class__ = type("CachedTokenizer", (type(tokenizer),), {"__module__": "vllm"})
    assert tokenizer_digest(tokenizer) == before


def test_case_3_mistrals_tokenizer_beside_it_is_not_taken(checkpoint):
    """vLLM takes it with Mistral's own weights alone, which are refused; transformers always."""
    model = checkpoint(config={"model_type": "mistral"})
    before = digest(model)
    (Path(model) / "tekken.json").write_text("no tokenizer")
    assert digest(model) == before


def test_a_checkpoint_without_tokenizer_is_refused(checkpoint):
    model = checkpoint()
    (Path(model) / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as error:
        load_tokenizer(model)
    assert str(error.value) == (
        f"{model} has none of {', '.join(TOKENIZER_FILES)}; save its tokenizer beside it"
    )


@pytest.mark.parametrize("raw", ["", "{", "[]", "{}"])
def test_a_damaged_tokenizer_is_refused(checkpoint, raw):
    model = checkpoint()
    (Path(model) / "tokenizer.json").write_text(raw)
    with pytest.raises(
        ModelError, match=f"cannot load the tokenizer of {model!r}: .*; save it anew"
    ):
        load_tokenizer(model)


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="cannot find model '/no/such/folder'.*; give a Hugging"):
        load_tokenizer("/no/such/folder")
