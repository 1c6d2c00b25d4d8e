"""The figures of bench/accuracy.py by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.accuracy import FULL, plan
from bench.common.store import Store
from bench.ladder.cell import Spent, calibration_error
from bench.ladder.cells import Cell, rates, tell
from bench.ladder.lora import RATES
from bench.ladder.table import METHODS, headline, markdown, worst_below_cheap
from calibration.ladder import PAPERS
from calibration.readout.metered import Metered
from calibration.settings import Settings
from ifedicl_serve.fitting.reader import Readers
from ifedicl_serve.fitting.rungs import Rung


def cell(accuracy: float, **others: float) -> dict:
    """Every method with one accuracy, but for some."""
    methods = {
        name: {
            "accuracy": others.get(name, accuracy),
            "log_loss": 1 - accuracy,
            "ece": 0.1,
            "seconds": 2.0,
            "bytes": 5.0 if "lora" in name else 2.0,
            "numbers": 1000,
        }
        for name in METHODS
    }
    methods["auto"]["rung"] = "head"
    return {"methods": methods, "trials": {}}


TINY = Path(__file__).parents[2] / "examples" / "tiny_qwen2"
RESULTS = {
    "subj/320/0": cell(0.8, auto=0.85, lora_8=0.84),
    "subj/320/1": cell(0.8, auto=0.87, lora_8=0.86),
    "emotion/320/0": cell(0.5, auto=0.49, lora_8=0.6),
}


def test_the_calibration_error_is_the_gap_in_each_bin():
    """Two of confidence 0.9, one right; two of 0.6, both right: (|1 - 1.8| + |2 - 1.2|) / 4."""
    log_probs = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert calibration_error(log_probs, np.array([0, 1, 0, 1])) == pytest.approx(0.4)


def test_the_headline_is_of_means_over_sets():
    numbers = headline(RESULTS)
    assert numbers["auto_minus_lora_points_320"] == pytest.approx((0.86 + 0.49 - 0.85 - 0.6) * 50)
    assert numbers["auto_minus_lora_log_loss_320"] == 0
    assert numbers["lora_bytes_over_head_320"] == 2.5
    assert worst_below_cheap(RESULTS, "320") == pytest.approx(1.0)


def test_a_rung_costs_the_stages_and_messages_that_it_needs():
    """2 layers of 2 sites and 4 channels: a vector is 64 bytes, a round of coefficients 32."""
    sums = Metered(Readers({}))
    sums.up.update({"none": 100, "coefficients": 10})
    sums.down.update({"none": 50, "coefficients": 5})
    stages = {"extract": 1.0, "fit coefficients": 4.0, "read": 2.0, "read coefficients": 1.0}
    spent = Spent(2, stages | {"compare": 2.0}, sums, Settings(layers=(0, 1), rounds=3))
    shape = 2, 2, 4
    at_sites = 2 * (64 + 3 * 32)
    assert spent.on(Rung("none", "none"), shape) == {"seconds": 1.0, "bytes": 0}
    assert spent.on(Rung("none", "head"), shape) == {"seconds": 1.5, "bytes": 150}
    assert spent.on(PAPERS, shape) == {"seconds": 2.5, "bytes": at_sites}
    with_bias = spent.on(Rung("coefficients", "bias"), shape)
    assert with_bias == {"seconds": 3.5, "bytes": at_sites + 15}
    assert spent.in_all(shape) == {"seconds": 5.0, "bytes": at_sites + 165}


def test_every_method_has_its_row():
    table = markdown(RESULTS)
    assert all(f"| {title} |" in table for title in METHODS.values())
    assert "| LoRA, rank 8 | 85.0 ± 1.4 (0.200) | 60.0 ± 0.0 (0.500) | 72.5 (0.350) |" in table
    assert "Auto chose: subj: head, head; emotion: head." in table


def test_a_run_that_is_cut_short_has_something_of_everything():
    cells = plan(FULL)
    assert len({cell.key for cell in cells}) == len(cells)
    assert {cell.data for cell in cells[:12]} == {cell.data for cell in cells}
    assert all(cell.seed == 0 for cell in cells[:18])


def test_what_there_is_by_now_has_its_table_in_the_order_of_the_plan(tmp_path):
    """Cells are kept in the order in which they end."""
    store = Store(tmp_path / "rungs.json", {}, resume=False)
    for key in reversed(RESULTS):
        store.add(key, RESULTS[key])
    cells = [Cell(*key.rsplit("/", 1)[0].split("/"), int(key[-1])) for key in RESULTS]
    assert tell(store, [*cells, Cell("ag_news", "320", 0)], (8,)) == headline(RESULTS)
    assert store.path.with_suffix(".md").read_text() == f"{markdown(RESULTS)}\n"
    assert json.loads(store.path.read_text())["headline"] == headline(RESULTS)


def test_a_run_of_ours_alone_has_no_rows_of_rivals():
    """`--extent tail` measures none."""
    methods = {name: one for name, one in cell(0.8)["methods"].items() if "lora" not in name}
    table = markdown({"subj/320/0": {"methods": methods}})
    assert "| **auto** | 80.0" in table
    assert "LoRA" not in table


def test_lora_keeps_the_rate_that_seed_0_has_chosen():
    """Each of its ranks; seed 0 tries all."""
    chosen = {f"lora_{rank}": {"rate": rate} for rank, rate in ((8, 1e-3), (1, 1e-2))}
    results = {"subj/320/0": {"methods": chosen}}
    assert rates(results, (8, 1), Cell("subj", "320", 0)) == {8: RATES, 1: RATES}
    assert rates(results, (8, 1), Cell("subj", "320", 1)) == {8: (1e-3,), 1: (1e-2,)}
    assert rates({}, (), Cell("subj", "320", 1)) == {}
