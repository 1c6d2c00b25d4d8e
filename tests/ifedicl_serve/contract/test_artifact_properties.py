"""Round trips of any task, and files that somebody wrote with intent.

`test_artifact_damage` breaks a good artifact; here headers, JSON and content are built to deceive.
Whatever comes, loading ends, and ends with an artifact or an ArtifactError.
"""

import hashlib
import json
import string

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, load_artifact, save_artifact
from ifedicl_serve.contract.injection import SITES, adapted_mask, initial_coefficients
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.prompt import PromptTemplate, label_trie, tokenized_labels
from ifedicl_serve.contract.spec import Label
from ifedicl_serve.errors import ArtifactError, PromptError
from tests.ifedicl_serve.factory import MODEL, make_artifact, make_spec, replace_vectors
from tests.properties import examples

# Text that UTF-8 can hold: all but surrogates.
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
factors = st.floats(-(2.0**63), 2.0**63, width=32)  # their product is finite, too
labels = st.lists(words.map(str.strip).filter(bool), min_size=2, max_size=6, unique=True)


@st.composite
def templates(draw):
    """Any template that is one."""
    template = (draw(words) + "{text}" + draw(words)).rstrip()
    assume(template.count("{text}") == 1)
    separator = draw(words.filter(bool))
    return PromptTemplate.of(template, separator)


@st.composite
def tasks(draw):
    """Any valid spec with tensors that fit it."""
    layers, hidden = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    adapted = tuple(sorted(draw(st.sets(st.integers(0, layers - 1)))))
    sites = draw(st.sampled_from([(), ("attn",), ("mlp",), SITES]))
    chosen = draw(labels)
    spec = make_spec(
        draw(names),
        labels=chosen,
        prompt=draw(templates()),
        layers=adapted,
        sites=sites,
        num_layers=layers,
        hidden_size=hidden,
    )
    vector = torch.from_numpy(draw(arrays(np.float32, (layers, 2, hidden), elements=factors)))
    coefficients = initial_coefficients(layers, adapted, sites)
    mask = adapted_mask(layers, adapted, sites)
    values = draw(arrays(np.float32, (layers, 2, 2), elements=factors))
    coefficients[mask] = torch.from_numpy(values)[mask]
    return spec, {"context_vector": vector, "coefficients": coefficients}


def contents(tensors):
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


@pytest.fixture(scope="module")
def intact(scratch):
    """A sound task, overwritten by the examples below: its two files."""
    make_artifact(scratch / "sst2")
    return {name: (scratch / "sst2" / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)}


def loads_or_is_refused(folder):
    try:
        load_artifact(folder, MODEL)
    except ArtifactError as error:
        assert str(folder) in str(error)
        assert len(str(error)) < 1 << 21


# -- round trips


@given(task=tasks())
def test_any_task_is_loaded_as_it_was_saved(scratch, task):
    spec, tensors = task
    saved = save_artifact(spec, tensors, scratch / "one")
    loaded = load_artifact(scratch / "one", MODEL, saved.digest)
    held = {"tensors": tuple(sorted(tensors)), "vectors_sha256": loaded.spec.vectors_sha256}
    assert loaded.spec == spec.model_copy(update=held)
    assert contents(loaded.tensors) == contents(tensors)
    again = save_artifact(loaded.spec, loaded.tensors, scratch / "two")
    assert again.digest == saved.digest


@given(one=tasks(), two=tasks())
def test_tasks_that_differ_have_other_digests(scratch, one, two):
    same = one[0] == two[0] and contents(one[1]) == contents(two[1])
    digests = {save_artifact(*task, scratch / "either").digest for task in (one, two)}
    assert len(digests) == (1 if same else 2)


# -- task.json

deep = st.integers(1, 3000).map(lambda depth: "[" * depth + "]" * depth)
huge = st.integers(1, 6000).map(lambda digits: "9" * digits)
odd = st.sampled_from(
    ["NaN", "-Infinity", "1e999", "-0", "1e-999", '"\\ud800"', '"\\u0000"', "null", "true", "{}"]
)
literals = st.one_of(deep, huge, odd, words.map(json.dumps))


@examples(300)
@given(field=st.integers(0, 30), literal=literals)
@example(field=0, literal="[" * 990 + "]" * 990)
def test_any_literal_as_any_value_of_the_task(scratch, intact, field, literal):
    """As text, so also what no JSON writer writes."""
    lines = intact[TASK_FILE].decode().splitlines()
    valued = [index for index, line in enumerate(lines) if '": ' in line]
    index = valued[field % len(valued)]
    key, _, value = lines[index].partition('": ')
    lines[index] = f'{key}": {literal}{"," if value.endswith(",") else ""}'
    (scratch / "sst2" / TASK_FILE).write_text("\n".join(lines), encoding="utf-8")
    (scratch / "sst2" / VECTORS_FILE).write_bytes(intact[VECTORS_FILE])
    loads_or_is_refused(scratch / "sst2")


@given(
    key=st.sampled_from(["schema_version", "name", "labels", "vectors_sha256", "model"]),
    literal=literals,
    first=st.booleans(),
)
def test_a_key_that_comes_twice(scratch, intact, key, literal, first):
    body = intact[TASK_FILE].decode().strip()[1:-1]
    pair = f'"{key}": {literal}'
    text = f"{{{pair},{body}}}" if first else f"{{{body},{pair}}}"
    (scratch / "sst2" / TASK_FILE).write_text(text, encoding="utf-8")
    (scratch / "sst2" / VECTORS_FILE).write_bytes(intact[VECTORS_FILE])
    loads_or_is_refused(scratch / "sst2")


@given(encoding=st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "utf-7", "latin-1"]))
def test_another_encoding_of_the_task(scratch, intact, encoding):
    (scratch / "sst2" / TASK_FILE).write_bytes(intact[TASK_FILE].decode().encode(encoding))
    (scratch / "sst2" / VECTORS_FILE).write_bytes(intact[VECTORS_FILE])
    loads_or_is_refused(scratch / "sst2")


# -- vectors.safetensors

sizes = st.one_of(st.integers(-1, 70), st.sampled_from([1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1]))
tensors = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I64", "BOOL", "F4", "", "f32"]) | words,
        "shape": st.lists(sizes, max_size=4) | words,
        "data_offsets": st.lists(sizes, max_size=3) | words,
        "more": words,
    },
)
headers = st.dictionaries(
    st.sampled_from(["context_vector", "coefficients", "__metadata__", "", "\0"]) | words,
    tensors | st.dictionaries(words, words | sizes, max_size=2) | words,
    max_size=4,
)


@examples(300)
@given(
    header=headers, claimed=st.none() | sizes.filter(lambda n: n >= 0), data=st.binary(max_size=96)
)
@example(header={}, claimed=(1 << 64) - 1, data=b"")
def test_any_header_of_the_vectors(scratch, intact, header, claimed, data):
    raw = json.dumps(header).encode()
    length = len(raw) if claimed is None else claimed
    (scratch / "sst2" / TASK_FILE).write_bytes(intact[TASK_FILE])
    replace_vectors(scratch / "sst2", length.to_bytes(8, "little") + raw + data)
    loads_or_is_refused(scratch / "sst2")


of_nothing = st.lists(sizes.filter(lambda size: size >= 0), max_size=4).flatmap(
    lambda shape: st.permutations([0, *shape])
)


@given(vector=of_nothing, coefficients=of_nothing, dtype=st.sampled_from(["F32", "BF16", "F4"]))
@example(vector=[0, (1 << 64) - 1], coefficients=[0], dtype="F32")
@example(vector=[0], coefficients=[0, 1 << 32, 1 << 32], dtype="F32")
def test_any_shape_of_vectors_that_hold_nothing(scratch, intact, vector, coefficients, dtype):
    """With a dimension of 0, whatever the others: to safetensors, a sound file."""
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for name, shape in (("context_vector", vector), ("coefficients", coefficients))
    }
    raw = json.dumps(header).encode()
    (scratch / "sst2" / TASK_FILE).write_bytes(intact[TASK_FILE])
    replace_vectors(scratch / "sst2", len(raw).to_bytes(8, "little") + raw)
    loads_or_is_refused(scratch / "sst2")


@given(literal=literals, key=st.sampled_from(["dtype", "shape", "data_offsets"]))
def test_any_literal_in_the_header_of_the_vectors(scratch, intact, literal, key):
    values = {"dtype": '"F32"', "shape": "[1]", "data_offsets": "[0,4]"} | {key: literal}
    fields = ",".join(f'"{name}":{value}' for name, value in values.items())
    raw = f'{{"context_vector":{{{fields}}}}}'.encode()
    (scratch / "sst2" / TASK_FILE).write_bytes(intact[TASK_FILE])
    replace_vectors(scratch / "sst2", len(raw).to_bytes(8, "little") + raw + bytes(4))
    loads_or_is_refused(scratch / "sst2")


@given(raw=st.binary(min_size=1, max_size=64), position=st.floats(0, 1))
def test_vectors_that_task_json_does_not_vouch_for_never_load(scratch, intact, raw, position):
    content = intact[VECTORS_FILE]
    cut = int(position * len(content))
    changed = content[:cut] + raw + content[cut + len(raw) :]
    assume(hashlib.sha256(changed).digest() != hashlib.sha256(content).digest())
    (scratch / "sst2" / TASK_FILE).write_bytes(intact[TASK_FILE])
    (scratch / "sst2" / VECTORS_FILE).write_bytes(changed)
    with pytest.raises(ArtifactError, match="does not match the SHA-256"):
        load_artifact(scratch / "sst2", MODEL)


# -- prompts and labels


@given(prompt=templates(), verbalizations=labels, seed=st.integers(0, 2**32 - 1))
def test_probabilities_over_any_labels_sum_to_1(bpe, prompt, verbalizations, seed):
    """Of labels that the tokenizer keeps apart; others are refused."""
    chosen = [Label(name=str(i), verbalization=v) for i, v in enumerate(verbalizations)]
    texts = [label.verbalization for label in chosen]
    try:
        trie = label_trie(bpe, prompt, texts)
    except PromptError:
        return
    assert_sums_to_1(trie, seed)
    head = bpe(str(prompt.render("a"))).input_ids
    for text, tokens in zip(texts, tokenized_labels(bpe, prompt, texts), strict=True):
        whole = bpe(f"{prompt.render('a')} {text}{prompt.separator}").input_ids
        assert whole[: len(head) + len(tokens)] == [*head, *tokens]


@given(
    tokens=st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=2, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_probabilities_over_any_trie_sum_to_1(tokens, seed):
    """Each label is ended by a token of its own kind, 6."""
    ended = list(dict.fromkeys((*label, 6) for label in map(tuple, tokens)))
    assume(len(ended) > 1)
    assert_sums_to_1(LabelTrie.build([str(i) for i in range(len(ended))], ended), seed)


def assert_sums_to_1(trie, seed):
    generator = np.random.default_rng(seed)
    choices = []
    for node in trie.nodes:
        logits = generator.normal(size=len(node.children), scale=8)
        choices.append(logits - np.logaddexp.reduce(logits))
    probabilities = np.exp(trie.log_probs(np.concatenate(choices).astype(np.float32)))
    assert probabilities.shape == (len(trie.labels),)
    assert probabilities.sum() == pytest.approx(1, abs=1e-4)


@given(prompt=templates(), text=words)
def test_a_prompt_is_its_template_with_the_text_in_it(prompt, text):
    before, after = prompt.template.split("{text}")
    assert str(prompt.render(text)) == before + text + after
    shown = f"{before}{text}{after} x{prompt.separator}"
    assert str(prompt.render_demonstration(text, "x")) == shown
