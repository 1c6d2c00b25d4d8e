"""Flags of `vllm serve` that tasks cannot be served with are usage errors, by vLLM's own parser."""

import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from huggingface_hub import constants
from vllm import EngineArgs

from api import serve
from api.options import ServeOptions
from api.vllm.launch import configure_server, download_dir
from ifedicl_serve.plugin.config import TaskConfig
from tests.api.conftest import TINY_QWEN2
from tests.api.test_serve import UNSENDABLE


@pytest.mark.parametrize(
    ("flags", "variable"), [(["--grpc"], "0"), (["--grpc-port", "1"], "0"), ([], "1")]
)
def test_front_ends_that_know_no_keys_are_refused(monkeypatch, capsys, flags, variable, tmp_path):
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", variable)
    argv = ["serve", str(TINY_QWEN2), *flags]
    with pytest.raises(SystemExit):
        serve._run_vllm(argv, "pooling", "", TaskConfig(tmp_path), ServeOptions())
    assert "know no tasks and no keys" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--revision", "main", "would serve another model"),
        ("--tokenizer", "elsewhere", "would serve another model"),
        ("--tokenizer-mode", "slow", "would serve another model"),
        (
            "--hf-overrides",
            '{"rope_parameters": {"rope_type": "yarn"}}',
            "would serve another model",
        ),
        ("--quantization", "fp8", "would serve another model"),
        ("--config-format", "mistral", "would serve another model"),
        ("--load-format", "mistral", "mistral could load other weights than tasks are checked"),
        ("--load-format", "sharded_state", "sharded_state could load other weights"),
        ("--weight-transfer-config", '{"backend": "nccl"}', "would serve another model"),
        (
            "--kv-transfer-config",
            '{"kv_connector": "ExampleConnector", "kv_role": "kv_both"}',
            "could give a task the KV of another",
        ),
        ("--kv-offloading-size", "1", "could give a task the KV of another"),
        ("--convert", "embed", "is set by ifedicl"),
    ],
)
def test_flags_that_tasks_are_not_checked_against_are_refused(
    flag, value, reason, tmp_path, capsys
):
    argv = ["serve", str(TINY_QWEN2), flag, value]
    with pytest.raises(SystemExit):
        serve._run_vllm(argv, "pooling", "", TaskConfig(tmp_path), ServeOptions())
    assert f"{flag} {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("key", UNSENDABLE)
def test_case_10_an_api_key_that_no_request_could_send_is_refused_and_not_shown(
    tmp_path, monkeypatch, capsys, key
):
    """Of the flag and of vLLM's variable: a server started with a key that nobody could send."""
    for flags, variable, source in (
        (["--api-key", "fine", key], "", "--api-key"),
        ([], key, "VLLM_API_KEY"),
    ):
        monkeypatch.setenv("VLLM_API_KEY", variable)
        argv = ["serve", str(TINY_QWEN2), *flags]
        with pytest.raises(SystemExit):
            serve._run_vllm(argv, "pooling", "", TaskConfig(tmp_path), ServeOptions())
        message = capsys.readouterr().err
        assert f"{source} is empty or holds more than printable ASCII" in message
        assert not key.strip() or key.strip() not in message


@pytest.mark.parametrize(
    ("flag", "root_path"),
    [("/llm", "/llm"), ("/llm/", "/llm"), ("llm", "/llm"), ("/", "/"), (None, None)],
)
def test_case_11_a_root_path_begins_every_path(flag, root_path):
    """Written otherwise it begins none, and no page or route would be found below it."""
    args = Namespace(root_path=flag, middleware=[], runner="pooling")
    configure_server(args, None, (), ServeOptions())
    assert args.root_path == root_path


@pytest.mark.parametrize(
    "flags", [["--download-dir", "/weights"], ["--dtype", "half", "--download_dir=/weights"]]
)
def test_a_hub_models_weights_are_where_vllm_is_told_to_put_them(monkeypatch, flags):
    """So that no identity check downloads them a second time."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert download_dir(flags) == "/weights"
    assert download_dir(["--dtype", "half"]) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_dir(flags) is None


def test_offline_vllm_takes_a_hub_model_from_hugging_faces_cache(monkeypatch, tmp_path):
    """Whatever `--download-dir` says, which is why `download_dir` says nothing then."""
    snapshot = tmp_path / "models--some--model" / "snapshots" / "c0ffee"
    shutil.copytree(TINY_QWEN2, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    args = EngineArgs(model="some/model", download_dir="/weights")
    assert Path(args.model) == snapshot
