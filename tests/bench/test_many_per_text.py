"""The figures of bench/many_per_text.py by hand."""

import numpy as np
import pytest

from bench.many_per_text import (
    AIM,
    BLOCK,
    QUICK,
    TAIL,
    TAILS,
    Measured,
    Size,
    Variant,
    _texts,
    headline,
    times,
)


def rounds(*seconds: float) -> list[Measured]:
    return [Measured(one, 512) for one in seconds]


CELLS = {
    "tail": {"1": rounds(1, 2, 1), "16": rounds(2, 4.2, 1.9)},
    "head": {"1": rounds(1, 1, 1), "16": rounds(1.1, 1.1, 1.1)},
    "all": {"1": rounds(1, 2, 1), "16": rounds(16, 21, 19)},
    "plain": {"1": rounds(1.1, 2.2, 1), "16": rounds(2, 4, 2)},
}


def test_ratios_are_medians_of_those_of_one_round() -> None:
    assert times(CELLS, ("tail", 16), ("tail", 1)) == 2.0  # of 2, 2.1 and 1.9
    assert times(CELLS, ("lora", 16), ("tail", 16)) is None


def test_the_headline_is_of_the_aims_and_leaves_out_what_was_not_measured() -> None:
    told = headline({str(AIM[1]): CELLS}, {"tail 16": [1.0, 2.0, 3.0]})
    assert told == {
        "time of 16 tasks over one": 2.0,
        "time of 16 heads over one": 1.1,
        "speed over separate": 8.0,  # of 8, 5 and 10
        "speed over the limit": 1.0,  # of 1, 0.952 and 1.053
        "speed of one task over plain vLLM": 1.1,
        "tail 16 p50, ms": 2.0,
        "tail 16 p99, ms": 3.0,
    }
    wide = CELLS | {"all, blocks of 128": {"1": rounds(0.9, 2, 1)}}
    assert headline({str(AIM[1]): wide}, {})["speed of blocks of 32 over 128, 512 tokens"] == 1.0


@pytest.mark.parametrize("count", [1, 4, 64])
def test_texts_end_in_all_parts_of_a_block_alike(count: int) -> None:
    """So that no way to ask is measured on texts that fit its blocks better."""
    lengths = np.array([len(text) for text in _texts(np.random.default_rng(0), count, 512)])
    assert abs(lengths.mean() - (512 - TAIL)) <= 0.5
    assert len({*(lengths % BLOCK)}) == min(count, BLOCK)


def test_prompts_of_a_text_stand_together_and_differ_in_their_tails() -> None:
    asked = Variant({}).prompts([[1], [2]], 3)
    prompts = [prompt["prompt_token_ids"] for prompt in asked]
    assert prompts == [[text, *tail] for text in (1, 2) for tail in TAILS[:3]]
    assert len(Variant({}, one_prompt=True).prompts([[1], [2]], 3)) == 2
    assert len({tuple(tail) for tail in TAILS}) == max(Size().tasks)


def test_a_batch_fills_the_machine_by_what_is_computed() -> None:
    assert Variant({}).computed(16, 512) == 16 * 512
    assert Variant({}, shares=True).computed(16, 512) == 512 + 15 * BLOCK
    assert Variant({}, shares=True, one_prompt=True).computed(16, 512) == 512


@pytest.mark.parametrize("size", [Size(), QUICK])
def test_what_aims_are_set_for_is_measured(size: Size) -> None:
    assert {1, AIM[0]} <= set(size.tasks) and AIM[1] in size.lengths
