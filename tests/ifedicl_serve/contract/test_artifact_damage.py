"""However an artifact is damaged, loading it works or raises ArtifactError: nothing else.

A server loads artifacts inside the engine, where any other exception would end it.
"""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, load_artifact
from ifedicl_serve.errors import ArtifactError
from tests.ifedicl_serve.factory import MODEL, make_artifact, replace_vectors
from tests.properties import examples

DTYPES = (
    "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 "
    "BF16 I32 U32 F32 C64 F64 I64 U64"
).split()

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4)
cuts = st.floats(0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One artifact, overwritten by every example below."""
    folder = tmp_path_factory.mktemp("damage") / "sst2"
    make_artifact(folder)
    return folder


@pytest.fixture(scope="module")
def intact(folder):
    return {name: (folder / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)}


@pytest.fixture(autouse=True, scope="module")
def _loads_before_it_is_damaged(folder, intact):
    load_artifact(folder, MODEL)


def loads_or_is_refused(folder):
    try:
        load_artifact(folder, MODEL)
    except ArtifactError as error:
        assert str(folder) in str(error)


def damaged(raw, flips, cut):
    raw = bytearray(raw)
    for position, mask in flips:
        raw[int(position * len(raw))] ^= mask
    return bytes(raw[: int(cut * len(raw))])


def with_value_at(document, steps, value):
    """`document` with the node reached by `steps` (choices among children) replaced."""
    if not steps or not isinstance(document, dict | list) or not document:
        return value
    keys = list(document) if isinstance(document, dict) else range(len(document))
    chosen = keys[steps[0] % len(keys)]
    document[chosen] = with_value_at(document[chosen], steps[1:], value)
    return document


@given(raw=st.binary(max_size=200))
def test_random_bytes_as_task(folder, intact, raw):
    (folder / TASK_FILE).write_bytes(raw)
    loads_or_is_refused(folder)


@given(flips=flips, cut=cuts | st.just(1.0))
def test_flipped_bits_and_truncation_of_the_task(folder, intact, flips, cut):
    (folder / TASK_FILE).write_bytes(damaged(intact[TASK_FILE], flips, cut))
    loads_or_is_refused(folder)


@examples(300)
@given(steps=st.lists(st.integers(0, 20), min_size=1, max_size=4), value=json_values)
@example(steps=[0], value=[[]])
def test_any_value_anywhere_in_the_task(folder, intact, steps, value):
    task = with_value_at(json.loads(intact[TASK_FILE]), steps, value)
    (folder / TASK_FILE).write_text(json.dumps(task))
    (folder / VECTORS_FILE).write_bytes(intact[VECTORS_FILE])
    loads_or_is_refused(folder)


@given(raw=st.binary(max_size=200))
def test_random_bytes_as_vectors(folder, intact, raw):
    (folder / TASK_FILE).write_bytes(intact[TASK_FILE])
    replace_vectors(folder, raw)
    loads_or_is_refused(folder)


@examples(300)
@given(flips=flips, cut=cuts | st.just(1.0))
def test_flipped_bits_and_truncation_of_the_vectors(folder, intact, flips, cut):
    (folder / TASK_FILE).write_bytes(intact[TASK_FILE])
    replace_vectors(folder, damaged(intact[VECTORS_FILE], flips, cut))
    loads_or_is_refused(folder)


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 8), max_size=3),
    size=st.integers(0, 64),
)
@example(dtype="F4", shape=[4], size=2)
@example(dtype="F8_E8M0", shape=[4], size=4)
@example(dtype="F32", shape=[0], size=0)
def test_any_dtype_and_shape_of_the_vectors(folder, intact, dtype, shape, size):
    header = json.dumps(
        {"context_vector": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    ).encode()
    raw = len(header).to_bytes(8, "little") + header + bytes(size)
    (folder / TASK_FILE).write_bytes(intact[TASK_FILE])
    replace_vectors(folder, raw)
    loads_or_is_refused(folder)
