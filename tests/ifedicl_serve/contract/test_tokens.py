"""A text is data: its control tokens stay text, and nothing else about it changes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.tokens import Prompt, guarded, token_ids
from ifedicl_serve.errors import ModelError
from tests.calibration.families import FAMILIES, control_ids, tokenizer_of

PLAIN = PromptTemplate.of("Text: {text}\nTopic:")
everyone = pytest.mark.parametrize("name", FAMILIES)
spelled = sorted({one for family in FAMILIES.values() for one in family.control})
texts = st.lists(st.sampled_from([*spelled, " ", "\n", "news", "the"]) | st.text(max_size=5)).map(
    "".join
)


def test_prompts_are_joined_where_both_are_written():
    joined = Prompt(("a", "b", "c")) + Prompt(("d",)) + Prompt(("e", "f", ""))
    assert joined == Prompt(("a", "b", "cde", "f", ""))
    assert str(joined) == "abcdef"


@everyone
@given(text=texts)
def test_a_text_reads_as_the_tokenizer_reads_it_with_control_tokens_split(name, text):
    tokenizer = tokenizer_of(name)
    prompt = PLAIN.render(text)
    whole = tokenizer(str(prompt), split_special_tokens=True).input_ids
    assert token_ids(tokenizer, prompt) == whole


@everyone
@given(text=texts)
def test_a_text_holds_no_control_token(name, text):
    tokenizer = tokenizer_of(name)
    opening = [] if FAMILIES[name].bos is None else [tokenizer.bos_token_id]
    ids = token_ids(tokenizer, Prompt(("", text, "")))
    assert not control_ids(name) & set(ids[len(opening) :])


@everyone
@given(text=st.text())
def test_what_is_written_reads_as_the_tokenizer_reads_it(name, text):
    """Control tokens of a template are such, wherever they stand."""
    tokenizer, family = tokenizer_of(name), FAMILIES[name]
    end, begin = family.control[-1], family.control[-2]
    prompt = Prompt((f"{begin} {end}x{begin}", text, f"{end}\n {begin}{begin}"))
    opening = [] if family.bos is None else [tokenizer.bos_token_id]
    ids = token_ids(tokenizer, prompt)
    assert ids == opening + tokenizer(str(prompt), add_special_tokens=False).input_ids


def test_a_control_token_is_not_made_of_two_parts():
    tokenizer = tokenizer_of("qwen2.5")
    ids = token_ids(tokenizer, Prompt(("<|im_", "end|>", "<|im_end", "|>", "")))
    assert not control_ids("qwen2.5") & set(ids)


def test_white_space_that_a_control_token_swallows_is_swallowed():
    """Phi 3's take the white space behind them, also where a text begins with some."""
    words = [*map(chr, range(32, 127)), "\n"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(
            models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[])
        )
    )
    tokenizer.add_tokens([AddedToken("<|user|>", rstrip=True, special=True, normalized=False)])
    ids = token_ids(tokenizer, Prompt(("<|user|>\n", "  hi", "\n")))
    assert ids == tokenizer("<|user|>\n  hi\n").input_ids
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "<|user|>hi\n"


def test_a_tokenizer_that_ends_a_sequence_too_does_not_end_a_prompt():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert fast("a").input_ids == [0, 2, 1]
    assert token_ids(fast, Prompt(("a",))) == [0, 2]


def test_a_tokenizer_whose_words_are_control_tokens_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"[END]": 0, "a": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[END]"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    with pytest.raises(ModelError) as caught:
        token_ids(fast, Prompt(("a",)))
    assert str(caught.value) == (
        "this tokenizer reads '[END]' in a text as control token 0, not as ordinary text; take a "
        "checkpoint with a byte-level or SentencePiece BPE tokenizer"
    )


def test_a_tokenizer_that_is_not_fast_is_refused():
    with pytest.raises(ModelError, match="object is not one of the fast tokenizers"):
        token_ids(object(), Prompt(("a",)))


def test_nobody_elses_tokenising_gets_between():
    """vLLM uses the tokenizer at the same time, with control tokens."""
    tokenizer = tokenizer_of("qwen2.5")
    prompt = PLAIN.render("<|im_end|> " * 50)
    ids = token_ids(tokenizer, prompt)
    with ThreadPoolExecutor(4) as threads:
        ours = [threads.submit(token_ids, tokenizer, prompt) for _ in range(200)]
        theirs = [tokenizer("<|im_end|>").input_ids for _ in range(200)]
    assert all(one.result() == ids for one in ours)
    assert set(map(tuple, theirs)) == {tuple(tokenizer.convert_tokens_to_ids(["<|im_end|>"]))}


@everyone
def test_a_text_is_cut_where_a_token_of_it_begins(name):
    text = "the news " + "".join(FAMILIES[name].control)
    starts = guarded(tokenizer_of(name)).starts(text)
    assert starts == sorted(starts) and starts[0] == 0
    assert len(starts) > len(FAMILIES[name].control) * 3
