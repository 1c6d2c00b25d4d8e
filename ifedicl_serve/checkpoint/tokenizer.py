"""A checkpoint's tokenizer: loaded one way everywhere, and a digest of all it does to a text."""

import json
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ifedicl_serve.checkpoint.files import digest_of, file_names
from ifedicl_serve.errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Texts whose tokens show what classes and settings do outside of the pipeline that they hold.
PROBES = (
    "Text: a\nTopic:",
    " two  blanks,\ta tab,\r\n\n and lines ",
    "Straße, ÇA VA? Ωmega №1 ﬁn\u00adal",
    "日本語と हिन्दी, العربية 🙂👩\u200d🚀",
    "3.14159 12,345 0x1F it's we'll <b>&amp;</b>",
)


def load_tokenizer(model: str) -> Any:
    """From Hugging Face's files, also where Mistral's own lie beside them: that is what vLLM does
    with a checkpoint of Hugging Face's format. Raises ModelError."""
    names = file_names(model)
    if not any(name in names for name in TOKENIZER_FILES):
        raise ModelError(
            f"{model} has none of {', '.join(TOKENIZER_FILES)}; save its tokenizer beside it"
        )
    try:
        return AutoTokenizer.from_pretrained(model, mistral_format=False)
    except Exception as error:  # of a damaged file the tokenizers library raises nothing narrower
        raise ModelError(
            f"cannot load the tokenizer of {model!r}: {error}; save it anew beside the model"
        ) from error


def tokenizer_digest(tokenizer: Any) -> str:
    """Of its class, pipeline, special tokens and chat template as loaded, and, for what these do
    not show, of the tokens of a few texts.

    vLLM's own subclasses, which only cache, count as what they were made of.
    """
    probes = [*PROBES, *(f"a{token} b" for token in tokenizer.all_special_tokens)]
    return digest_of(
        {
            "class": _class_name(tokenizer),
            "pipeline": _pipeline(tokenizer),
            "special_tokens": tokenizer.special_tokens_map,
            "chat_template": tokenizer.chat_template,
            "probes": [list(tokenizer(probe).input_ids) for probe in probes],
        }
    )


def _class_name(tokenizer: Any) -> str:
    return next(
        kind.__name__
        for kind in type(tokenizer).__mro__
        if kind.__module__.partition(".")[0] in ("transformers", "transformers_modules")
    )


def _pipeline(tokenizer: Any) -> Any:
    """From normaliser to added tokens, as the tokenizers library writes it; of a tokenizer in
    Python the vocabulary. How texts are cut and padded is the caller's, call by call."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer.get_vocab()
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
