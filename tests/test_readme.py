"""The README's commands, run as they stand, in order."""

import shutil

from tests.readme import BLOCKS, ROOT, run

COMMANDS = [block for block in BLOCKS if block.startswith(".venv/bin/ifedicl ")]


def test_ifedicl_commands_run_in_the_order_of_the_page():
    assert [command.split()[1] for command in COMMANDS] == [
        "calibrate", "inspect", "evaluate", "export", "partition", "classify",
    ]  # fmt: skip
    shutil.rmtree(ROOT / "demo" / "readme", ignore_errors=True)
    for command in COMMANDS:
        run(command)


def test_make_test_is_the_other_set_up_command():
    assert "make test\n" in BLOCKS
    assert "pytest" in run("make --dry-run test")
