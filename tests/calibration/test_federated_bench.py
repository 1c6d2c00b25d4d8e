"""The parts of bench/federated.py whose mistakes would not show in a table."""

import math
from pathlib import Path

import pytest
import torch

from bench.federation.lora import Lora, add_adapters, fit_adapters, run_lora
from bench.federation.report import Table, compute_ratio, cost_to_reach, markdown, rounds_to
from bench.federation.rounds import MeteredModel, Variant, fitting_only, run_federated
from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.model.load import load_model
from calibration.settings import Settings
from calibration.stages.evaluate import Evaluation
from calibration.stages.fit import fit_round
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import BETA, LAMBDA, initial_coefficients
from ifedicl_serve.contract.tokens import token_ids

SETTINGS = Settings(
    layers=(0, 1, 2),
    fit="coefficients",
    readout="none",
    rounds=2,
    local_steps=2,
    batch_size=4,
)


@pytest.fixture
def evaluation(llama: HookedModel, task: TaskDefinition, examples: list[Example]) -> Evaluation:
    return Evaluation(MeteredModel(llama.network, llama.tokenizer), task, examples)


@pytest.fixture
def adapted(llama_folder: Path):
    return add_adapters(load_model(str(llama_folder)), Lora(0.01, rank=2), seed=0)


def test_fresh_adapters_change_nothing(llama: HookedModel, adapted) -> None:
    model, _ = adapted
    ids = [[5, 6, 7, 8]]
    assert torch.equal(model.hidden(ids), llama.hidden(ids))


def test_only_adapters_are_fitted(adapted, task: TaskDefinition, examples) -> None:
    model, parameters = adapted
    frozen = {n: p.clone() for n, p in model.network.named_parameters() if n not in parameters}
    started = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    fit_adapters(model, parameters, task, examples, SETTINGS, client=0, round_index=0)
    assert all(torch.equal(dict(model.network.named_parameters())[n], frozen[n]) for n in frozen)
    assert any(not torch.equal(parameters[name], started[name]) for name in parameters)
    # per layer q and o are 64 x 64, k and v 64 x 32
    sizes = sum(parameter.numel() for parameter in parameters.values())
    assert sizes == 3 * 2 * (2 * (64 + 64) + 2 * (64 + 32))


def test_lora_bytes_and_clients(adapted, evaluation: Evaluation, examples) -> None:
    model, parameters = adapted
    evaluation.model = model
    trace = run_lora(model, parameters, evaluation, [examples[:8], examples[8:]], SETTINGS, True)
    size = 4 * sum(parameter.numel() for parameter in parameters.values())
    assert [row["bytes"] for row in trace.spent] == [0, 2 * size, 4 * size]
    assert trace.spent[-1]["backward_tokens"] == trace.spent[-1]["forward_tokens"] > 0


def test_a_client_pays_for_its_own_tokens_only(evaluation: Evaluation, examples) -> None:
    trace = run_federated(evaluation.model, evaluation, [examples], SETTINGS, Variant(), True)
    task, tokenizer = evaluation.task, evaluation.model.tokenizer
    stage1 = sum(len(token_ids(tokenizer, task.demonstration(example))) for example in examples)
    assert trace.spent[0]["forward_tokens"] == stage1
    assert trace.spent[0]["backward_tokens"] == 0
    # float32: 3 layers, 2 sites, 64 numbers up and down; then 2 coefficients a site
    assert [row["bytes"] for row in trace.spent] == [3072, 3072 + 96, 3072 + 192]


def test_two_runs_agree(evaluation: Evaluation, examples) -> None:
    parts = [examples[:6], examples[6:]]
    runs = [
        run_federated(evaluation.model, evaluation, parts, SETTINGS, Variant()) for _ in range(2)
    ]
    assert runs[0].metrics == runs[1].metrics


def test_a_poisoned_update_matters_to_fedavg(evaluation: Evaluation, examples) -> None:
    parts = [examples[:6], examples[6:]]
    clean, poisoned = (
        run_federated(evaluation.model, evaluation, parts, SETTINGS, variant)
        for variant in (Variant(), Variant(poison="update"))
    )
    assert clean.metrics != poisoned.metrics


def test_lambda_alone_leaves_beta_at_one(llama, task: TaskDefinition, examples) -> None:
    start = initial_coefficients(3, (0, 1, 2), ("attn", "mlp"))
    vector = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))
    asked = llama, task, examples, "coefficients", vector, start, SETTINGS, 0, 0
    with fitting_only("lambda"):
        fitted = fit_round(*asked).values
    assert (fitted[..., BETA] == 1).all()
    assert (fitted[..., LAMBDA] != start[..., LAMBDA]).all()
    both = fit_round(*asked).values
    assert (both[..., BETA] != 1).all()


def record(*accuracies: float, tokens: float = 10.0) -> dict:
    spent = [
        {"seconds": n, "forward_tokens": n * tokens, "backward_tokens": n * tokens}
        for n in range(1, len(accuracies) + 1)
    ]
    return {"metrics": [{"accuracy": value} for value in accuracies], "spent": spent}


def test_rounds_and_costs() -> None:
    assert rounds_to(record(0.5, 0.76, 0.8)) == 1  # 95 % of 0.8 is 0.76
    assert rounds_to(record(0.8)) == 0
    assert cost_to_reach(record(0.5, 0.6, 0.7), 0.6, "tokens") == 40
    assert cost_to_reach(record(0.5, 0.6, 0.7), 0.6, "seconds") == 2
    assert cost_to_reach(record(0.5), 0.6, "seconds") == math.inf


def test_compute_ratio_and_changes() -> None:
    results = {
        "subj/0/dirichlet/federated": record(0.5, 0.6),
        "subj/0/dirichlet/lora": record(0.1, 0.2, 0.65, tokens=100.0),
        "subj/1/dirichlet/federated": record(0.5, 0.7),
        "subj/1/dirichlet/lora": record(0.1, 0.3),  # never gets there
    }
    assert compute_ratio(Table(results, seeds=1), "tokens") == 600 / 40
    table = Table(results, seeds=2)
    assert compute_ratio(table, "tokens") is None
    base = ("dirichlet", "lora")
    assert table.mean_change("dirichlet", "federated", base) == pytest.approx((-5 + 40) / 2)


def test_markdown() -> None:
    assert markdown([["", "a"], ["x", "1"]]) == "|  | a |\n| --- | --- |\n| x | 1 |"
