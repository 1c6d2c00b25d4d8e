"""`ifedicl serve` up to the point where vLLM starts."""

import os
import pickle
from importlib.metadata import entry_points

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api import serve
from api.access.admin_key import ADMIN_KEY_VARIABLE, with_admin_key
from api.access.keys import KEY_FILE_VARIABLE, KeyTasks, vllm_keys
from api.options import ServeOptions
from api.vllm.plugins import GATED_GROUPS
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.errors import IFedICLError
from ifedicl_serve.plugin.config import TaskConfig
from tests.api.conftest import TINY_QWEN2
from tests.ifedicl_serve.keys import public_pem, trusting


@pytest.fixture
def started(monkeypatch):
    """What vLLM would have been started with; it never is."""
    calls = []
    monkeypatch.setattr(serve, "_run_vllm", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.setenv("VLLM_PLUGINS", "")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # so that what main sets is undone
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "")
    return calls


def checkpoint(folder, architecture):
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"architectures": ["{architecture}"]}}')
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


def run(*argv):
    return serve.main(list(map(str, argv)))


def test_vllm_is_started_with_the_adapted_architecture_and_the_tasks(tmp_path, started):
    assert run("--model", TINY_QWEN2, "--tasks", tmp_path) == 0
    argv = ["serve", str(TINY_QWEN2)]
    tasks = TaskConfig(tmp_path)
    assert started == [(argv, "pooling", "IFedICLQwen2ForCausalLM", tasks, ServeOptions())]


def test_flags_of_vllm_are_passed_on_in_order(tmp_path, started):
    run("--port", "0", "--model", TINY_QWEN2, "--max-model-len=64", "--tasks", tmp_path, "--seed=1")
    assert started[0][0] == [
        "serve",
        str(TINY_QWEN2),
        "--port",
        "0",
        "--max-model-len=64",
        "--seed=1",
    ]


def test_a_flag_is_never_taken_for_the_start_of_ours(tmp_path, started):
    run("--model", TINY_QWEN2, "--tasks", tmp_path, "--task", "classify")
    assert started[0][0] == ["serve", str(TINY_QWEN2), "--task", "classify"]
    assert started[0][3].tasks_dir == tmp_path


def test_the_tasks_folder_is_made_absolute(tmp_path, started, monkeypatch):
    (tmp_path / "tasks").mkdir()
    monkeypatch.chdir(tmp_path)
    run("--model", TINY_QWEN2, "--tasks", "tasks")
    assert started[0][3].tasks_dir == tmp_path / "tasks"


def test_our_own_options_do_not_reach_vllm(tmp_path, started):
    run("--model", TINY_QWEN2, "--tasks", tmp_path, "--max-resident-tasks", 100)
    run("--model", TINY_QWEN2, "--tasks", tmp_path, "--runner", "generate")
    assert [argv for argv, *_ in started] == [["serve", str(TINY_QWEN2)]] * 2
    assert [runner for _, runner, *_ in started] == ["pooling", "generate"]
    assert [tasks.max_resident_tasks for *_, tasks, _ in started] == [100, None]


def test_limits_and_keys_are_options_of_the_api_processes(tmp_path, started):
    keys = tmp_path / "keys.json"
    keys.write_text('{"of-a-team": ["sst2", "support-*"]}')
    run("--model", TINY_QWEN2, "--tasks", tmp_path, "--max-queued-requests", 9, "--request-timeout",
        2.5, "--max-request-bytes", 100, "--key-file", keys)  # fmt: skip
    options = started[0][4]
    assert options == ServeOptions(9, 2.5, 100, {"of-a-team": KeyTasks(("sst2", "support-*"))})
    assert "of-a-team" not in repr(options)  # vLLM logs its arguments


def test_the_key_file_may_be_named_by_its_variable(tmp_path, started, monkeypatch):
    (tmp_path / "keys.json").write_text('{"of-a-team": ["*"]}')
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "keys.json"))
    run("--model", TINY_QWEN2, "--tasks", tmp_path)
    assert started[0][4].keys == {"of-a-team": KeyTasks(("*",))}


def test_a_key_that_makes_tasks_uses_them_too(tmp_path, started):
    keys = tmp_path / "keys.json"
    keys.write_text('{"of-a-team": {"use": ["sst2"], "make": ["team-*"]}, "new": {"make": ["*"]}}')
    run("--model", TINY_QWEN2, "--tasks", tmp_path, "--key-file", keys)
    assert started[0][4].keys == {
        "of-a-team": KeyTasks(("sst2", "team-*"), ("team-*",)),
        "new": KeyTasks(("*",), ("*",)),
    }


@pytest.mark.parametrize(
    "flag", ["--max-queued-requests", "--request-timeout", "--max-request-bytes"]
)
@pytest.mark.parametrize("value", ["0", "-1", "inf", "many"])
def test_limits_are_above_zero(tmp_path, started, capsys, flag, value):
    with pytest.raises(SystemExit):
        run("--model", TINY_QWEN2, "--tasks", tmp_path, flag, value)
    assert flag in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no JSON object"),
        (b'["secret"]', "no JSON object"),
        (b'{"secret": "sst2"}', "no JSON object"),
        (b'{"secret": []}', "no JSON object"),
        (b'{"secret": {"use": ["sst2"]}}', "no JSON object"),
        (b'{"secret": {"make": []}}', "no JSON object"),
        (b'{"secret": {"make": ["a"], "delete": ["a"]}}', "no JSON object"),
        (b'{"my secret": ["sst2"]}', "without spaces"),
        (b"\xff\xfesecret", "no JSON object"),
        (b"{}", "holds no key"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_key_file_that_is_none_ends_with_status_1_and_is_not_shown(
    tmp_path, started, capsys, content, complaint
):
    keys = tmp_path / "keys.json"
    if content is not None:
        keys.write_bytes(content)
    assert run("--model", TINY_QWEN2, "--tasks", tmp_path, "--key-file", keys) == 1
    message = capsys.readouterr().err
    assert complaint in message
    assert "secret" not in message
    assert started == []


@pytest.mark.parametrize("architecture", ADAPTED_ARCHITECTURES)
def test_every_adapted_architecture_is_accepted(tmp_path, started, architecture):
    assert run("--model", checkpoint(tmp_path / "base", architecture), "--tasks", tmp_path) == 0
    assert started[0][2] == ADAPTED_ARCHITECTURES[architecture]


def test_trusted_keys_are_read_once_and_reach_every_process_with_the_tasks(tmp_path, started):
    key = Ed25519PrivateKey.generate()
    (tmp_path / "keys.pem").write_bytes(public_pem(key))
    run("--model", TINY_QWEN2, "--tasks", tmp_path, "--trusted-keys", tmp_path / "keys.pem")
    assert started[0][0] == ["serve", str(TINY_QWEN2)]
    assert pickle.loads(pickle.dumps(started[0][3])).trusted == trusting(key)


# -- errors before vLLM starts


def test_a_file_of_no_trusted_key_ends_with_status_1(tmp_path, started, capsys):
    """Rather than serving nothing, or everything."""
    (tmp_path / "keys.pem").write_bytes(b"")
    argv = ("--model", TINY_QWEN2, "--tasks", tmp_path, "--trusted-keys", tmp_path / "keys.pem")
    assert run(*argv) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"ifedicl serve: {tmp_path / 'keys.pem'}: holds no PEM public key;")
    assert started == []


def test_a_missing_tasks_folder_ends_with_status_1(tmp_path, started, capsys):
    assert run("--model", TINY_QWEN2, "--tasks", tmp_path / "none") == 1
    assert capsys.readouterr().err == (
        f"ifedicl serve: --tasks {tmp_path / 'none'} is not a directory; calibrate a task into it "
        "first\n"
    )
    assert started == []


def test_an_unsupported_architecture_ends_with_status_1(tmp_path, started, capsys):
    model = checkpoint(tmp_path / "gpt2", "GPT2LMHeadModel")
    assert run("--model", model, "--tasks", tmp_path) == 1
    assert capsys.readouterr().err == (
        f"ifedicl serve: {model} is a GPT2LMHeadModel, tasks are served on "
        f"{', '.join(ADAPTED_ARCHITECTURES)}; choose a checkpoint of one of these\n"
    )
    assert started == []


def test_a_folder_that_is_no_checkpoint_ends_with_status_1(tmp_path, started, capsys):
    assert run("--model", tmp_path, "--tasks", tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"ifedicl serve: {tmp_path} has no config.json; ")
    assert started == []


@pytest.mark.parametrize("argv", [[], ["--model", "m"], ["--tasks", "t"]])
def test_missing_options_end_with_usage(argv, started, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*argv)
    assert caught.value.code == 2
    assert "the following arguments are required" in capsys.readouterr().err
    assert started == []


# -- VLLM_PLUGINS


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "ifedicl,ifedicl-api"),
        ("metal", "metal,ifedicl,ifedicl-api"),
        ("ifedicl-api,metal", "ifedicl-api,metal,ifedicl"),
        ("ifedicl,ifedicl-api", "ifedicl,ifedicl-api"),
    ],
)
def test_our_plugins_join_those_already_named(tmp_path, started, monkeypatch, before, after):
    monkeypatch.setenv("VLLM_PLUGINS", before)
    run("--model", TINY_QWEN2, "--tasks", tmp_path)
    assert os.environ["VLLM_PLUGINS"] == after


def test_plugins_that_load_without_the_variable_still_load(tmp_path, started, monkeypatch):
    monkeypatch.delenv("VLLM_PLUGINS")
    run("--model", TINY_QWEN2, "--tasks", tmp_path)
    named = os.environ["VLLM_PLUGINS"].split(",")
    groups = (entry_points(group=group) for group in GATED_GROUPS)
    installed = {entry.name for group in groups for entry in group}
    assert {*installed, "ifedicl", "ifedicl-api"} == set(named)


def test_plugins_are_left_alone_if_nothing_starts(tmp_path, started):
    run("--model", TINY_QWEN2, "--tasks", tmp_path / "none")
    assert os.environ["VLLM_PLUGINS"] == ""


# -- the admin key


@pytest.mark.parametrize(
    ("variable", "flags", "key"),
    [
        ("", (), ""),
        ("secret", (), "secret"),
        ("", ("--admin-key", "secret"), "secret"),
        ("", ("--admin-key=-secret",), "-secret"),
        ("other", ("--admin-key", "secret"), "secret"),
    ],
)
def test_the_admin_key_reaches_every_process_by_its_variable_and_never_vllm(
    tmp_path, started, monkeypatch, variable, flags, key
):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, variable)
    assert run("--model", TINY_QWEN2, "--tasks", tmp_path, *flags) == 0
    assert os.environ[ADMIN_KEY_VARIABLE] == key
    assert started[0][0] == ["serve", str(TINY_QWEN2)]


UNSENDABLE = [" ", "two words", "s3cret\n", "schl\xfcssel"]


@pytest.mark.parametrize(
    ("flags", "variable"),
    [(("--admin-key", key), "") for key in ["", *UNSENDABLE]] + [((), key) for key in UNSENDABLE],
)
def test_a_key_that_no_request_could_send_ends_with_status_1(
    tmp_path, started, monkeypatch, capsys, flags, variable
):
    """An empty variable is no key, as with VLLM_API_KEY; an empty flag is a mistake."""
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, variable)
    assert run("--model", TINY_QWEN2, "--tasks", tmp_path, *flags) == 1
    assert capsys.readouterr().err == (
        f"ifedicl serve: {flags[0] if flags else ADMIN_KEY_VARIABLE} is empty or holds more than "
        "printable ASCII without spaces and line ends, which a header cannot carry; make a key "
        "with `openssl rand -hex 32`, or leave it out\n"
    )
    assert started == []


def test_case_10_an_empty_api_key_is_a_mistake_and_no_open_server(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "of-the-variable")
    assert vllm_keys(["one", "two"]) == ["one", "two"]
    assert vllm_keys(None) == ["of-the-variable"]
    with pytest.raises(IFedICLError, match="--api-key is empty"):
        vllm_keys([""])
    monkeypatch.setenv("VLLM_API_KEY", "")  # as if it were not set, for vLLM too
    assert vllm_keys(None) == []


def test_the_admin_key_joins_api_keys_only_if_there_are_any(monkeypatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "admin")
    assert with_admin_key([]) == []
    assert with_admin_key(["one", "two"]) == ["one", "two", "admin"]
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "")
    assert with_admin_key(["one"]) == ["one"]


def test_an_api_key_is_never_the_admin_key(monkeypatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "one")
    with pytest.raises(IFedICLError, match="the admin key is also an API key"):
        with_admin_key(["one", "two"])
